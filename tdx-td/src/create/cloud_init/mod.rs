//! The cloud-init seed of a new guest: its user, keys, password and host name.
//!
//! The seed is of the type NoCloud: a small FAT file system labelled `CIDATA`. Its documents are JSON, which is
//! valid YAML: no name, key or password can change the meaning of the document.
//! Source: cloud-init documentation, "NoCloud"; "Cloud config examples".

mod setup_config;

use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};

use common::document::input;
use common::secret::Secret;
use common::{Error, ErrorKind, Result};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use serde_json::{Value, json};
use setup_config::SetupConfig;
use sha_crypt::{PasswordHasher, ShaCrypt};
use tdx_pool::volume::names::random_bytes;

/// The requested user, keys, password and host name of a guest.
#[derive(Debug, Clone, Default)]
pub struct AccessRequest {
    /// User to create in the guest, with sudo.
    pub user: Option<String>,
    /// Files of public keys that may log in as the user.
    pub ssh_key: Vec<PathBuf>,
    /// A file with the user's password on its first line.
    pub password_file: Option<PathBuf>,
    /// Host name of the guest.
    pub hostname: Option<String>,
    /// Directory with the documents of cloud-init.
    pub cloud_init: Option<PathBuf>,
    /// The password from Canonical's `setup-tdx-config`.
    pub(crate) password: Option<Password>,
}

/// A password, which is never printed.
#[derive(Clone)]
pub(crate) struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

impl AccessRequest {
    /// Adds the values of Canonical's `setup-tdx-config` for which no flag was given.
    ///
    /// Errors: those of reading the file; `invalid_input` for an invalid user or host name.
    pub fn take_setup_config(&mut self, path: &Path) -> Result<()> {
        let config = SetupConfig::read(path)?;
        let take = |key: &str, check: fn(&str) -> Result<String, String>| {
            let value = config.get(key).map(check).transpose();
            value.map_err(|why| Error::invalid_input(format!("{key} in {}: {why}", path.display())))
        };
        if self.user.is_none() {
            self.user = take("GUEST_USER", user_name)?;
        }
        let password = config.get("GUEST_PASSWORD").filter(|_| self.password_file.is_none());
        self.password = password.map(|password| Password(password.to_owned()));
        if self.hostname.is_none() {
            self.hostname = take("GUEST_HOSTNAME", host_name)?;
        }
        Ok(())
    }

    fn has_password(&self) -> bool {
        self.password_file.is_some() || self.password.is_some()
    }
}

/// Parses a user name.
///
/// Source: useradd(8), the names that every distribution accepts.
pub(crate) fn user_name(text: &str) -> Result<String, String> {
    let mut characters = text.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_');
    let rest = characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c));
    match first && rest && text.len() <= 32 {
        true => Ok(text.to_owned()),
        false => Err(
            "a user name has at most 32 lower-case letters, digits, _ and -, and starts with a \
                      letter or _"
                .to_owned(),
        ),
    }
}

/// Parses a host name.
///
/// Source: RFC 1123, section 2.1.
pub(crate) fn host_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        inner
            && !label.is_empty()
            && label.len() < 64
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match text.split('.').all(label) && text.len() < 254 {
        true => Ok(text.to_owned()),
        false => {
            Err("a host name has labels of letters, digits and hyphens, separated by dots"
                .to_owned())
        }
    }
}

/// The files of a seed. `Debug` prints only their names: they may contain a password's hash.
pub struct Seed {
    files: Vec<(&'static str, Vec<u8>)>,
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.files.iter().map(|(name, _)| name)).finish()
    }
}

/// The largest size of a seed's file, in bytes. A guest reads the whole file into memory.
const MAX_FILE: usize = 16 << 20;

impl Seed {
    /// Reads the files that the flags name, and returns the seed; `None` if no flag asks for one.
    ///
    /// Errors: `usage` for a user without key and password; `invalid_input` for a private key, a file
    /// without keys, an empty password; `permission` for a password file that others can read;
    /// `not_found`.
    pub fn read(args: &AccessRequest, instance: &str) -> Result<Option<Self>> {
        if let Some(folder) = &args.cloud_init {
            return Self::from_folder(folder, instance).map(Some);
        }
        if args.user.is_none() && args.hostname.is_none() {
            return Ok(None);
        }
        let mut config = json!({});
        if let Some(user) = &args.user {
            config["users"] = json!([account(user, args)?]);
            config["ssh_pwauth"] = args.has_password().into();
        }
        let meta = meta_data(instance, args.hostname.as_deref());
        let user_data = format!("#cloud-config\n{config}\n").into_bytes();
        Ok(Some(Self { files: vec![("user-data", user_data), ("meta-data", meta)] }))
    }

    fn from_folder(folder: &Path, instance: &str) -> Result<Self> {
        let mut files = Vec::new();
        for name in ["user-data", "meta-data", "network-config", "vendor-data"] {
            let path = folder.join(name);
            match input::file(&path, MAX_FILE) {
                Ok(bytes) => files.push((name, bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound && name != "user-data" => {}
                Err(error) => return Err(error),
            }
        }
        if files.iter().all(|(name, _)| *name != "meta-data") {
            files.push(("meta-data", meta_data(instance, None)));
        }
        Ok(Self { files })
    }

    /// Returns the seed as a disk image.
    ///
    /// Errors: `failed` when the file system cannot be made.
    pub fn to_image(&self) -> Result<Vec<u8>> {
        let content: usize = self.files.iter().map(|(_, bytes)| bytes.len()).sum();
        // Room for the content in clusters, the tables and the root directory.
        let size = (content + content / 8 + (512 << 10)).next_multiple_of(1 << 20);
        let mut image = Cursor::new(vec![0; size]);
        self.write(&mut image)
            .map_err(|error| Error::failed("cannot create the cloud-init seed").because(error))?;
        Ok(image.into_inner())
    }

    fn write(&self, image: &mut Cursor<Vec<u8>>) -> io::Result<()> {
        let fat = if image.get_ref().len() < 8 << 20 { FatType::Fat12 } else { FatType::Fat16 };
        let options = FormatVolumeOptions::new()
            .volume_label(*b"CIDATA     ")
            .fat_type(fat)
            .bytes_per_sector(SECTOR);
        fatfs::format_volume(&mut *image, options)?;
        let file_system = FileSystem::new(&mut *image, FsOptions::new())?;
        for (name, bytes) in &self.files {
            file_system.root_dir().create_file(name)?.write_all(bytes)?;
        }
        file_system.unmount()
    }
}

/// Size of a sector in bytes. A template may attach the seed as a CD, which has sectors of this size, and a
/// file system cannot have smaller sectors than its device.
const SECTOR: u16 = 2048;

fn meta_data(instance: &str, hostname: Option<&str>) -> Vec<u8> {
    let mut meta = json!({ "instance-id": instance });
    if let Some(hostname) = hostname {
        meta["local-hostname"] = hostname.into();
    }
    format!("{meta}\n").into_bytes()
}

fn account(user: &str, args: &AccessRequest) -> Result<Value> {
    let mut keys = Vec::new();
    for path in &args.ssh_key {
        keys.extend(public_keys(path)?);
    }
    if keys.is_empty() && !args.has_password() {
        return Err(Error::usage(format!("user '{user}' has neither an SSH key nor a password"))
            .hint("add --ssh-key FILE or --password-file FILE"));
    }
    let mut account = json!({
        "name": user,
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": !args.has_password(),
        "ssh_authorized_keys": keys,
    });
    if let Some(path) = &args.password_file {
        account["passwd"] = password_hash(path)?.into();
    } else if let Some(Password(password)) = &args.password {
        account["passwd"] = hash(password.as_bytes())?.into();
    }
    Ok(account)
}

/// Returns the keys in a file of public keys, one per line.
fn public_keys(path: &Path) -> Result<Vec<String>> {
    let bytes = input::file(path, MAX_FILE)?;
    let shown = path.display();
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::invalid_input(format!("{shown} is not a file of public SSH keys")))?;
    if text.contains("PRIVATE KEY-----") {
        return Err(Error::invalid_input(format!("{shown} is a private key, not a public one"))
            .hint(format!("--ssh-key {shown}.pub")));
    }
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = lines.map(str::to_owned).collect();
    match keys.iter().find(|key| !is_public_key(key)) {
        Some(_) => {
            Err(Error::invalid_input(format!("{shown} has a line that is not a public SSH key")))
        }
        None if keys.is_empty() => {
            Err(Error::invalid_input(format!("{shown} has no public SSH key")))
        }
        None => Ok(keys),
    }
}

/// Whether a line is a public SSH key.
///
/// Source: sshd(8), "AUTHORIZED_KEYS FILE FORMAT": options, if any, then type and base64.
fn is_public_key(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let kinds = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"];
    words.windows(2).any(|pair| {
        let base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
        kinds.iter().any(|kind| pair[0].starts_with(kind))
            && pair[1].starts_with("AAAA")
            && pair[1].bytes().all(base64)
    })
}

/// Returns the hash, for `/etc/shadow`, of the password on the first line of a file.
fn password_hash(path: &Path) -> Result<String> {
    let shown = path.display();
    let bytes = Secret::read(path, MAX_FILE)?;
    let first = bytes.as_bytes().split(|&byte| byte == b'\n').next().unwrap_or_default();
    let password = first.strip_suffix(b"\r").unwrap_or(first);
    if password.is_empty() {
        return Err(Error::invalid_input(format!(
            "the first line of {shown} is empty: no password"
        )));
    }
    hash(password)
}

/// Returns the hash of a password.
///
/// Source: crypt(5), `sha512crypt`.
fn hash(password: &[u8]) -> Result<String> {
    // Twelve bytes make the sixteen characters that crypt(5) reads. It would shorten a longer salt, and no
    // password would match the hash.
    let salt: [u8; 12] = random_bytes()?;
    let hash = ShaCrypt::SHA512
        .hash_password_with_salt(password, &salt)
        .map_err(|error| Error::failed("cannot hash the password").because(error.to_string()))?;
    Ok(hash.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMadeUpForThisTestOnlyNotARealKey me@host";

    fn file(folder: &TempDir, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn setup_config_supplies_values_without_flags() {
        let folder = TempDir::new().unwrap();
        let text = "GUEST_USER=tdx\nGUEST_PASSWORD=123456\nGUEST_HOSTNAME=tdx-guest\n";
        let path = file(&folder, "setup-tdx-config", text, 0o644);
        let read = |args: AccessRequest| {
            let mut args = args;
            args.take_setup_config(&path).unwrap();
            let seed = Seed::read(&args, "i").unwrap().unwrap();
            assert!(!format!("{args:?} {seed:?}").contains("123456"));
            String::from_utf8(seed.files[0].1.clone()).unwrap()
        };
        let text = read(AccessRequest::default());
        assert!(
            text.contains("\"tdx\"") && text.contains("$6$") && !text.contains("123456"),
            "{text}"
        );
        let password = file(&folder, "password", "other\n", 0o600);
        let by_flag = read(AccessRequest { password_file: Some(password), ..with_user() });
        assert!(by_flag.contains("$6$"), "{by_flag}");
        for (text, says) in [("GUEST_USER=Root\n", "GUEST_USER"), ("GUEST_USER=$(id)\n", "line 1")]
        {
            let path = file(&folder, "wrong", text, 0o600);
            let mut args = AccessRequest::default();
            let error = args.take_setup_config(&path).unwrap_err();
            assert!(error.message().contains(says), "{error}");
        }
    }

    fn with_user() -> AccessRequest {
        AccessRequest { user: Some("tdx".to_owned()), ..AccessRequest::default() }
    }

    fn fails(args: &AccessRequest) -> ErrorKind {
        Seed::read(args, "id").unwrap_err().kind()
    }

    /// The document under a name, read back from the finished image.
    fn read_back(seed: &Seed, name: &str) -> String {
        let mut image = Cursor::new(seed.to_image().unwrap());
        let file_system = FileSystem::new(&mut image, FsOptions::new()).unwrap();
        assert_eq!(file_system.volume_label(), "CIDATA");
        let mut text = String::new();
        file_system.root_dir().open_file(name).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn seed_has_a_user_with_key_and_password() {
        let folder = TempDir::new().unwrap();
        let args = AccessRequest {
            ssh_key: vec![file(&folder, "id.pub", &format!("# mine\n{KEY}\n\n"), 0o644)],
            password_file: Some(file(&folder, "password", "S3cret: #x\nnot this\n", 0o600)),
            hostname: Some("web1.example".to_owned()),
            ..with_user()
        };
        let seed = Seed::read(&args, "an-id").unwrap().unwrap();
        let user_data = read_back(&seed, "user-data");
        let config = user_data.strip_prefix("#cloud-config\n").unwrap();
        let config: Value = serde_json::from_str(config).unwrap();
        let account = &config["users"][0];
        assert_eq!(account["ssh_authorized_keys"], json!([KEY]));
        assert_eq!((&account["lock_passwd"], &config["ssh_pwauth"]), (&json!(false), &json!(true)));
        let hash = account["passwd"].as_str().unwrap();
        let parts: Vec<&str> = hash.split('$').collect();
        assert_eq!((parts[1], parts[3].len(), parts[4].len()), ("6", 16, 86), "{hash}");
        assert!(!user_data.contains("S3cret"));
        assert!(!format!("{seed:?}").contains(hash));
        let meta: Value = serde_json::from_str(&read_back(&seed, "meta-data")).unwrap();
        assert_eq!(meta, json!({"instance-id": "an-id", "local-hostname": "web1.example"}));
    }

    #[test]
    fn read_returns_none_without_flags() {
        assert!(Seed::read(&AccessRequest::default(), "id").unwrap().is_none());
    }

    #[test]
    fn read_takes_the_documents_of_a_directory_unchanged() {
        let folder = TempDir::new().unwrap();
        let args = AccessRequest {
            cloud_init: Some(folder.path().to_owned()),
            ..AccessRequest::default()
        };
        assert_eq!(fails(&args), ErrorKind::NotFound);
        file(&folder, "user-data", "#!/bin/sh\necho hello\n", 0o644);
        let seed = Seed::read(&args, "id").unwrap().unwrap();
        assert_eq!(read_back(&seed, "user-data"), "#!/bin/sh\necho hello\n");
        assert_eq!(read_back(&seed, "meta-data"), "{\"instance-id\":\"id\"}\n");
        file(&folder, "network-config", &"x".repeat(3 << 20), 0o644);
        let seed = Seed::read(&args, "id").unwrap().unwrap();
        assert_eq!(read_back(&seed, "network-config").len(), 3 << 20);
    }

    #[test]
    fn read_refuses_users_without_login_private_keys_and_public_passwords() {
        let folder = TempDir::new().unwrap();
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n";
        assert_eq!(fails(&with_user()), ErrorKind::Usage);
        for (text, mode, kind) in [
            (private, 0o600, ErrorKind::InvalidInput),
            ("", 0o600, ErrorKind::InvalidInput),
            ("hello world\n", 0o600, ErrorKind::InvalidInput),
        ] {
            let ssh_key = vec![file(&folder, "key", text, mode)];
            assert_eq!(fails(&AccessRequest { ssh_key, ..with_user() }), kind, "{text}");
        }
        for (text, mode, kind) in [
            ("secret\n", 0o644, ErrorKind::Permission),
            ("secret\n", 0o640, ErrorKind::Permission),
            ("\nsecret\n", 0o600, ErrorKind::InvalidInput),
        ] {
            let password_file = Some(file(&folder, "password", text, mode));
            assert_eq!(fails(&AccessRequest { password_file, ..with_user() }), kind, "{text}");
        }
        let password_file = Some(folder.path().join("absent"));
        assert_eq!(fails(&AccessRequest { password_file, ..with_user() }), ErrorKind::NotFound);
    }

    #[test]
    fn user_name_and_host_name_refuse_invalid_names() {
        for name in ["tdx", "_x", "a-b_9"] {
            assert!(user_name(name).is_ok(), "{name}");
        }
        for name in ["", "9a", "Root", "a b", "a:b", &"x".repeat(33)] {
            assert!(user_name(name).is_err(), "{name}");
        }
        for name in ["web1", "web1.example.org", "A-1"] {
            assert!(host_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "a..b", "a_b", &"x".repeat(64)] {
            assert!(host_name(name).is_err(), "{name}");
        }
    }
}
