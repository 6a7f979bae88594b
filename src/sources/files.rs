//! Files with secrets: a key, a token that somebody rotates.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

/// The text in a file, without the line ends at its end.
///
/// On a thread of its own, since a disk may hang, and nobody else is to wait for it; and only of a regular file, since
/// a pipe would have us wait for whoever writes into it.
pub(super) async fn read(path: &Path) -> io::Result<SecretString> {
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_now(&path));
    // Only a panic gets here, which ends the program where it is released.
    reading.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
}

fn read_now(path: &PathBuf) -> io::Result<SecretString> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.len() > LARGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).map(SecretString::from).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, "it is no text (a PFX has to be made a PEM)")
    })?;
    Ok(SecretString::from(text.expose_secret().trim_end_matches(['\r', '\n'])))
}

/// No key or token is as long.
const LARGEST: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn only_a_file_with_a_text_is_read_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::File::create(&path).unwrap().write_all(b" a word \r\n\n").unwrap();
        assert_eq!(read(&path).await.unwrap().expose_secret(), " a word ");
        std::fs::File::create(&path).unwrap().write_all(b"\xff").unwrap();
        assert!(read(&path).await.unwrap_err().to_string().contains("no text"));
        assert_eq!(
            read(&folder.path().join("none")).await.unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert!(read(folder.path()).await.unwrap_err().to_string().contains("no regular file"));
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(read(&pipe).await.unwrap_err().to_string().contains("no regular file"));
    }
}
