//! NVIDIA's own program for what only its firmware can do: set a GPU's mode.
//!
//! Source: gpu-admin-tools, <https://github.com/NVIDIA/gpu-admin-tools>, `nvidia_gpu_tools.py --help`. It
//! answers on standard error, among its log: `GPU 0000:b8:00.0 H200 0x2335 BAR0 0x… CC mode is on`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use common::system::exec::Runner;
use common::system::pci::Bdf;
use common::{Error, Result};

use crate::cc::mode::{CcMode, PpcieMode};

const NAMES: [&str; 2] = ["nvidia_gpu_tools.py", "nvidia_gpu_tools"];
const PACKAGE: &str = "gpu-admin-tools (https://github.com/NVIDIA/gpu-admin-tools)";

/// The program.
#[derive(Debug)]
pub struct GpuTools {
    program: OsString,
}

/// What the program said: its log, which holds its answers.
#[derive(Debug)]
pub struct Answer(pub Vec<String>);

impl GpuTools {
    /// The program at `path`, else one on PATH.
    ///
    /// Errors: `not_found` for a path that is none; `unsupported` when there is none.
    pub fn find(path: Option<&Path>) -> Result<Self> {
        if let Some(path) = path {
            return if path.is_file() {
                Ok(Self { program: path.into() })
            } else {
                Err(Error::not_found(format!("there is no {}", path.display())))
            };
        }
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let files = std::env::split_paths(&folders).flat_map(|f| NAMES.map(|name| f.join(name)));
        let found: Option<PathBuf> = files.into_iter().find(|file| file.is_file());
        found.map(|file| Self { program: file.into() }).ok_or_else(|| {
            Error::unsupported(format!("{} is not installed", NAMES[0]))
                .hint(format!("get {PACKAGE}, or name it with --gpu-tools"))
        })
    }

    /// Sets the mode of confidential computing, and resets the device, which it takes to be so.
    pub fn set_cc(&self, bdf: Bdf, mode: CcMode) -> Result<Answer> {
        self.ask(
            bdf,
            &[&format!("--set-cc-mode={}", mode.as_str()), "--reset-after-cc-mode-switch"],
        )
    }

    /// Sets protected PCIe, and resets the device, which it takes to be so.
    pub fn set_ppcie(&self, bdf: Bdf, mode: PpcieMode) -> Result<Answer> {
        let set = format!("--set-ppcie-mode={}", mode.as_str());
        self.ask(bdf, &[&set, "--reset-after-ppcie-mode-switch"])
    }

    /// The mode of confidential computing as the program sees it.
    ///
    /// Errors: `failed` when it does not answer: without a device that it knows, it ends well all the same.
    pub fn cc(&self, bdf: Bdf) -> Result<CcMode> {
        let answer = self.ask(bdf, &["--query-cc-mode"])?;
        match answer.answer_about(bdf, "CC mode is ")? {
            "off" => Ok(CcMode::Off),
            "on" => Ok(CcMode::On),
            "devtools" => Ok(CcMode::Devtools),
            _ => Ok(CcMode::Invalid),
        }
    }

    /// Protected PCIe as the program sees it.
    ///
    /// Errors: `failed` when it does not answer.
    pub fn ppcie(&self, bdf: Bdf) -> Result<PpcieMode> {
        let answer = self.ask(bdf, &["--query-ppcie-mode"])?;
        match answer.answer_about(bdf, "PPCIe mode is ")? {
            "off" => Ok(PpcieMode::Off),
            "on" => Ok(PpcieMode::On),
            other => Err(Error::failed(format!("the mode of {bdf} is {other:?}"))),
        }
    }

    fn ask(&self, bdf: Bdf, flags: &[&str]) -> Result<Answer> {
        // By its full address: it takes any text that an address contains.
        let device = format!("--gpu-bdf={bdf}");
        let runner = Runner::new(&self.program, PACKAGE).args([device.as_str()]).args(flags);
        let output = runner.run_for_all()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Answer(text.lines().map(str::to_owned).collect()))
    }
}

impl Answer {
    /// What follows `words` in the line about a device.
    fn answer_about(&self, bdf: Bdf, words: &str) -> Result<&str> {
        let name = bdf.to_string();
        let about = self.0.iter().filter(|line| line.split_whitespace().any(|word| word == name));
        let answers = about.filter_map(|line| line.split_once(words));
        answers.map(|(_, answer)| answer.trim()).next_back().ok_or_else(|| {
            let last = self.0.last().cloned().unwrap_or_default();
            Error::failed(format!("{} said nothing about {bdf}", NAMES[0])).because(last)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_in_the_log() {
        let log = "2025-10-20,12:00:00.123 INFO     Selected GPU 0000:b8:00.0 H200 0x2335\n\
            2025-10-20,12:00:00.456 INFO     GPU 0000:b9:00.0 H200 0x2335 BAR0 0x1 CC mode is off\n\
            2025-10-20,12:00:00.456 INFO     GPU 0000:b8:00.0 H200 0x2335 BAR0 0x1 CC mode is on\n";
        let answer = Answer(log.lines().map(str::to_owned).collect());
        let of =
            |bdf: &str| answer.answer_about(bdf.parse().unwrap(), "CC mode is ").map(str::to_owned);
        assert_eq!(of("b8:00.0").unwrap(), "on");
        assert_eq!(of("b9:00.0").unwrap(), "off");
        assert!(of("ba:00.0").unwrap_err().message().contains("said nothing"));
    }
}
