//! An image with the clients that people use, for the applications of the tests: the Debian that other
//! tests boot, which has docker's and skopeo.

use anyhow::Result;
use tokio::process::Command;

use crate::booted::debian;
use crate::engine::Engine;
use crate::machine::{ended_with, run};

/// Its name in the engine.
pub(crate) const NAME: &str = "freshcreds-test-clients:booted";

/// Makes the image, if this engine has none yet.
pub(crate) async fn ready(engine: &Engine) -> Result<()> {
    if run(engine.docker().args(["image", "inspect", NAME])).await?.code == Some(0) {
        return Ok(());
    }
    let (root, _turn) = debian().await?;
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("root.tar");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--numeric-owner", "--one-file-system", "--file"]).arg(&archive);
    ended_with(&run(tar.arg("--directory").arg(root).arg(".")).await?, 0)?;
    ended_with(&run(engine.docker().arg("import").arg(&archive).arg(NAME)).await?, 0)
}
