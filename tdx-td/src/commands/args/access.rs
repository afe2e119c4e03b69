//! Who may log in to a new guest.

use std::path::PathBuf;

use clap::Args;
use common::Result;

use crate::create::cloud_init::{AccessRequest, host_name, user_name};

/// Who may log in.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// A user to make in the guest, with sudo
    #[arg(short, long, value_parser = user_name)]
    pub user: Option<String>,
    /// Public keys that may log in as the user
    #[arg(short = 'k', long, value_name = "FILE", requires = "user")]
    pub ssh_key: Vec<PathBuf>,
    /// A file with the user's password on its first line; nobody else may read it, and it is not compared
    /// with that of a domain that is there
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// The guest's host name
    #[arg(long, value_parser = host_name)]
    pub hostname: Option<String>,
    /// A folder with user-data and, if wanted, meta-data, network-config and vendor-data
    #[arg(long, value_name = "DIR", conflicts_with_all = ["user", "hostname"])]
    pub cloud_init: Option<PathBuf>,
    /// Canonical's setup-tdx-config; its GUEST_USER, GUEST_PASSWORD and GUEST_HOSTNAME count where
    /// no flag says otherwise
    #[arg(long, value_name = "FILE", conflicts_with = "cloud_init")]
    pub setup_config: Option<PathBuf>,
}

impl AccessArgs {
    /// Returns what the flags and the file of `--setup-config` ask for.
    ///
    /// Errors: those of [`AccessRequest::take_setup_config`].
    pub fn read(self) -> Result<AccessRequest> {
        let mut request = AccessRequest {
            user: self.user,
            ssh_key: self.ssh_key,
            password_file: self.password_file,
            hostname: self.hostname,
            cloud_init: self.cloud_init,
            ..AccessRequest::default()
        };
        if let Some(path) = &self.setup_config {
            request.take_setup_config(path)?;
        }
        Ok(request)
    }
}
