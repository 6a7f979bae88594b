//! An image with the clients that people use, for the applications of the tests: Debian's docker and skopeo.

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::engine::Engine;
use crate::machine::run;

/// Its name in the engine.
pub(crate) const NAME: &str = "freshcreds-test-clients:bookworm";

/// Makes the image, if this engine has none yet.
pub(crate) async fn ready(engine: &Engine) -> Result<()> {
    if run(engine.docker().args(["image", "inspect", NAME])).await?.code == Some(0) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root.tar");
    let mut made = Command::new("mmdebstrap");
    made.args(["--quiet", "--variant=essential", "--include=docker.io,skopeo,ca-certificates"]);
    let made = run(made.arg("bookworm").arg(&root)).await;
    let made = made.context("mmdebstrap is missing: run `make setup`")?;
    ensure!(made.code == Some(0), "no Debian could be made:\n{}", made.stderr);
    let imported = run(engine.docker().arg("import").arg(&root).arg(NAME)).await?;
    ensure!(imported.code == Some(0), "it could not be imported:\n{}", imported.stderr);
    Ok(())
}
