//! The settings: flags win over the environment, the environment over the file.
//!
//! [`file`](mod@file) is what was written, with every field optional; [`settings`] is what
//! it means, with every default applied and every text parsed. Nothing else sees
//! the former.

pub mod file;
pub mod settings;

pub use self::file::{BadFile, File};
pub use self::settings::{BadSettings, Options, Registry, Settings};
