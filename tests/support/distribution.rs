//! A registry that is not ours, whose password follows the token.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::process::Child;

use crate::machine::{Machine, free_port, put, wait_until};

/// Debian's `docker-registry`, with a password file that follows the token.
pub(crate) struct Distribution {
    pub(crate) host: String,
    passwords: PathBuf,
    _child: Child,
}

impl Distribution {
    pub(crate) async fn start(machine: &Machine) -> Result<Self> {
        let folder = machine.home().join("registry");
        std::fs::create_dir_all(&folder)?;
        let passwords = folder.join("htpasswd");
        put(&passwords, "")?;
        let host = format!("127.0.0.1:{}", free_port()?);
        let settings = folder.join("config.yml");
        put(
            &settings,
            &format!(
                "version: 0.1\nlog: {{level: error}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http: {{addr: \"{host}\"}}\n\
                 auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                folder.display(),
                passwords.display()
            ),
        )?;
        let child = machine
            .command("docker-registry")
            .arg("serve")
            .arg(settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("docker-registry is missing: run `make setup`")?;
        wait_until(async || tokio::net::TcpStream::connect(&host).await.is_ok()).await?;
        Ok(Self { host, passwords, _child: child })
    }

    /// Takes this password from now on, and no other.
    pub(crate) fn accept_only(&self, user: &str, password: &str) -> Result<()> {
        // The weakest there is: it guards nothing, and is asked often.
        let hash = bcrypt::hash(password, 4)?;
        let new = self.passwords.with_extension("new");
        put(&new, &format!("{user}:{hash}\n"))?;
        Ok(std::fs::rename(new, &self.passwords)?)
    }
}
