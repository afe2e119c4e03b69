//! The flags that set who may log in to a new guest.

use std::path::PathBuf;

use clap::Args;
use common::Result;

use crate::create::cloud_init::{AccessRequest, host_name, user_name};

/// The flags that set who may log in to a new guest.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Login")]
pub struct AccessArgs {
    /// User to create in the guest; may use sudo without a password
    #[arg(short, long, value_parser = user_name)]
    pub user: Option<String>,
    /// File of public SSH keys to authorize for the user (repeatable)
    #[arg(short = 'k', long, value_name = "FILE", requires = "user")]
    pub ssh_key: Vec<PathBuf>,
    /// File whose first line is the user's password. Only its owner may have access to the file. If the
    /// domain already exists, tdx-td does not compare the password of the domain with the file
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// Host name of the guest
    #[arg(long, value_parser = host_name)]
    pub hostname: Option<String>,
    /// Directory with cloud-init's user-data and, optionally, meta-data, network-config and
    /// vendor-data
    #[arg(long, value_name = "DIR", conflicts_with_all = ["user", "hostname"])]
    pub cloud_init: Option<PathBuf>,
    /// Canonical's setup-tdx-config file. GUEST_USER, GUEST_PASSWORD and GUEST_HOSTNAME of the file
    /// apply unless --user, --password-file or --hostname, respectively, is given
    #[arg(long, value_name = "FILE", conflicts_with = "cloud_init")]
    pub setup_config: Option<PathBuf>,
}

impl AccessArgs {
    /// Returns the login settings of the flags and of the file of `--setup-config`.
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
