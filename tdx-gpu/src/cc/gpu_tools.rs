//! Runs NVIDIA's program nvidia_gpu_tools.py, which sets the mode of a GPU.
//!
//! Source: gpu-admin-tools, <https://github.com/NVIDIA/gpu-admin-tools>, `nvidia_gpu_tools.py --help`. The program
//! prints its answers among its log on standard error: `GPU 0000:b8:00.0 H200 0x2335 BAR0 0x… CC mode is on`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use common::system::exec::Runner;
use common::system::pci::Bdf;
use common::{Error, Result};

use crate::cc::mode::{CcMode, PpcieMode};

const NAMES: [&str; 2] = ["nvidia_gpu_tools.py", "nvidia_gpu_tools"];
const PACKAGE: &str = "gpu-admin-tools (https://github.com/NVIDIA/gpu-admin-tools)";

/// NVIDIA's program nvidia_gpu_tools.py.
#[derive(Debug)]
pub struct GpuTools {
    program: OsString,
}

/// The log of the program, which contains its answers.
#[derive(Debug)]
pub struct Answer(pub Vec<String>);

impl GpuTools {
    /// The program at `path`; without a path, the program is looked up in PATH.
    ///
    /// Errors: `not_found` for a path that is not a file; `unsupported` when PATH does not contain the program.
    pub fn find(path: Option<&Path>) -> Result<Self> {
        if let Some(path) = path {
            return if path.is_file() {
                Ok(Self { program: path.into() })
            } else {
                Err(Error::not_found(format!("file {} not found", path.display())))
            };
        }
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let files = std::env::split_paths(&folders).flat_map(|f| NAMES.map(|name| f.join(name)));
        let found: Option<PathBuf> = files.into_iter().find(|file| file.is_file());
        found.map(|file| Self { program: file.into() }).ok_or_else(|| {
            Error::unsupported(format!("{} is not installed", NAMES[0]))
                .hint(format!("install {PACKAGE}, or pass its path with --gpu-tools"))
        })
    }

    /// Sets the confidential-computing mode, and resets the device so that the mode takes effect.
    pub fn set_cc(&self, bdf: Bdf, mode: CcMode) -> Result<Answer> {
        self.ask(
            bdf,
            &[&format!("--set-cc-mode={}", mode.as_str()), "--reset-after-cc-mode-switch"],
        )
    }

    /// Sets the protected PCIe mode, and resets the device so that the mode takes effect.
    pub fn set_ppcie(&self, bdf: Bdf, mode: PpcieMode) -> Result<Answer> {
        let set = format!("--set-ppcie-mode={}", mode.as_str());
        self.ask(bdf, &[&set, "--reset-after-ppcie-mode-switch"])
    }

    /// Reads the confidential-computing mode.
    ///
    /// Errors: `failed` when the program gives no answer. For an unknown device, it exits successfully without one.
    pub fn cc(&self, bdf: Bdf) -> Result<CcMode> {
        let answer = self.ask(bdf, &["--query-cc-mode"])?;
        match answer.answer_about(bdf, "CC mode is ")? {
            "off" => Ok(CcMode::Off),
            "on" => Ok(CcMode::On),
            "devtools" => Ok(CcMode::Devtools),
            _ => Ok(CcMode::Invalid),
        }
    }

    /// Reads the protected PCIe mode.
    ///
    /// Errors: `failed` when the program gives no answer.
    pub fn ppcie(&self, bdf: Bdf) -> Result<PpcieMode> {
        let answer = self.ask(bdf, &["--query-ppcie-mode"])?;
        match answer.answer_about(bdf, "PPCIe mode is ")? {
            "off" => Ok(PpcieMode::Off),
            "on" => Ok(PpcieMode::On),
            other => Err(Error::failed(format!(
                "{} reports the unknown protected PCIe mode {other:?} for {bdf}",
                NAMES[0]
            ))),
        }
    }

    fn ask(&self, bdf: Bdf, flags: &[&str]) -> Result<Answer> {
        // The full address, because the program accepts any part of an address.
        let device = format!("--gpu-bdf={bdf}");
        let runner = Runner::new(&self.program, PACKAGE).args([device.as_str()]).args(flags);
        let output = runner.run_for_all()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Answer(text.lines().map(str::to_owned).collect()))
    }
}

impl Answer {
    /// The text after `words` in the line about a device.
    fn answer_about(&self, bdf: Bdf, words: &str) -> Result<&str> {
        let name = bdf.to_string();
        let about = self.0.iter().filter(|line| line.split_whitespace().any(|word| word == name));
        let answers = about.filter_map(|line| line.split_once(words));
        answers.map(|(_, answer)| answer.trim()).next_back().ok_or_else(|| {
            let last = self.0.last().cloned().unwrap_or_default();
            Error::failed(format!(
                "{} did not report the confidential-computing mode of {bdf}",
                NAMES[0]
            ))
            .because(last)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_about_finds_the_answer_in_the_log() {
        let log = "2025-10-20,12:00:00.123 INFO     Selected GPU 0000:b8:00.0 H200 0x2335\n\
            2025-10-20,12:00:00.456 INFO     GPU 0000:b9:00.0 H200 0x2335 BAR0 0x1 CC mode is off\n\
            2025-10-20,12:00:00.456 INFO     GPU 0000:b8:00.0 H200 0x2335 BAR0 0x1 CC mode is on\n";
        let answer = Answer(log.lines().map(str::to_owned).collect());
        let of =
            |bdf: &str| answer.answer_about(bdf.parse().unwrap(), "CC mode is ").map(str::to_owned);
        assert_eq!(of("b8:00.0").unwrap(), "on");
        assert_eq!(of("b9:00.0").unwrap(), "off");
        assert!(
            of("ba:00.0")
                .unwrap_err()
                .message()
                .contains("did not report the confidential-computing mode")
        );
    }
}
