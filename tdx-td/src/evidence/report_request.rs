//! Asking the kernel of a guest for a quote, through configfs-tsm.
//!
//! Source: Linux `Documentation/ABI/testing/configfs-tsm-report` and `drivers/virt/coco/guest/report.c`.

use common::td_quote::{self, ReportData, TdReport};
use common::{Error, Result};

use crate::domain::guest_exec::{Exit, GuestAgent};

/// The provider of quotes of trust domains: the kernel module of TDX guests.
pub const PROVIDER: &str = "tdx_guest";

/// What the script prints before the quote.
const PROVIDER_LINE: &str = "tdx_guest\n";

/// The script that gets a quote in the guest. Its exit statuses are those of [`failure`].
const SCRIPT: &str = include_str!("get-quote.sh");

/// What the script adds to its exit status if the report directory remains.
const LEFT: i32 = 50;

/// Gets the quote of a guest for this report data.
///
/// Errors: `unsupported` for a guest without configfs-tsm or with another provider; `conflict` if another process of
/// the guest wrote to the report; `failed` if the kernel returned no quote, or one without the report data; those of
/// the agent.
pub fn quote(agent: &GuestAgent<'_>, name: &str, data: &ReportData) -> Result<Vec<u8>> {
    let mut exit = agent.shell(SCRIPT, &(td_quote::LIMIT + 1).to_string(), &data.0)?;
    let is_left = exit.status.is_some_and(|status| (LEFT..2 * LEFT).contains(&status));
    if is_left {
        exit.status = exit.status.map(|status| status - LEFT);
    }
    let read = read_quote(&exit, name, data);
    if !is_left {
        return read;
    }
    let error = read.err().unwrap_or_else(|| {
        let message = format!("the guest of domain '{name}' cannot remove its report directory");
        Error::failed(message).because(exit.stderr)
    });
    let left =
        format!("a directory tdx-td.* in /sys/kernel/config/tsm/report of the guest of '{name}'");
    Err(error.left_behind([left]))
}

/// Returns the quote in the output of the script, if it is complete and contains the report data.
fn read_quote(exit: &Exit, name: &str, data: &ReportData) -> Result<Vec<u8>> {
    let Some(status) = exit.status else {
        return Err(Error::failed(format!(
            "a signal ended the process that reads the quote of domain '{name}'"
        )));
    };
    if status != 0 {
        return Err(failure(status, exit, name));
    }
    let quote = exit.stdout.strip_prefix(PROVIDER_LINE.as_bytes()).ok_or_else(|| {
        Error::failed(format!(
            "the process that reads the quote of domain '{name}' printed no provider"
        ))
    })?;
    if quote.len() > td_quote::LIMIT {
        let message =
            format!("the quote of domain '{name}' has more than {} bytes", td_quote::LIMIT);
        return Err(Error::failed(message));
    }
    match TdReport::read(quote) {
        Err(why) => Err(Error::failed(format!(
            "the guest of domain '{name}' returned no complete quote of a trust domain: {why}"
        ))),
        Ok(report) if *report.report_data != data.0 => {
            Err(Error::failed(format!("the quote of domain '{name}' does not contain the nonce"))
                .hint("do not trust this quote: the guest returned a quote for other report data"))
        }
        Ok(_) => Ok(quote.to_vec()),
    }
}

/// The error for an exit status of the script.
fn failure(status: i32, exit: &Exit, name: &str) -> Error {
    let error = match status {
        10 => Error::unsupported(format!("the guest of domain '{name}' has no configfs-tsm"))
            .hint("run modprobe tdx_guest in the guest (Linux 6.7 or newer)"),
        11 | 12 => Error::unsupported(format!(
            "the guest of domain '{name}' cannot create a report directory in configfs-tsm"
        ))
        .hint("in the guest, run modprobe tdx_guest; with SELinux, check that the guest agent may write to configfs"),
        13 => {
            let provider = String::from_utf8_lossy(&exit.stdout);
            let message = format!(
                "configfs-tsm in the guest of domain '{name}' has the provider '{}', expected '{PROVIDER}'",
                provider.trim()
            );
            return Error::unsupported(message)
                .hint("tdx-td evidence supports Intel TDX trust domains only");
        }
        14 => Error::failed(format!("the guest of domain '{name}' cannot write the nonce to configfs-tsm")),
        15 => Error::failed(format!("the kernel of the guest of domain '{name}' got no quote")).hint(
            "check that the domain has <quoteGenerationService/> (tdx-td new --qgs) and that the service runs on \
             the host: systemctl status qgsd",
        ),
        16 => Error::conflict(format!(
            "another process in the guest of domain '{name}' wrote to the same report"
        ))
        .hint("run the command again"),
        _ => Error::failed(format!(
            "the process that reads the quote of domain '{name}' ended with exit status {status}"
        )),
    };
    if exit.stderr.is_empty() { error } else { error.because(exit.stderr.as_str()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::sample::quote_with as sample;

    const DATA: ReportData = ReportData([3; 64]);

    fn read(status: i32, stdout: &[u8]) -> Result<Vec<u8>> {
        let exit = Exit { status: Some(status), stdout: stdout.to_vec(), stderr: String::new() };
        read_quote(&exit, "web1", &DATA)
    }

    fn printed(quote: &[u8]) -> Vec<u8> {
        [b"tdx_guest\n", quote].concat()
    }

    #[test]
    fn a_quote_with_the_report_data_is_returned() {
        for version in [4, 5] {
            let quote = sample(version, b'\n', DATA.0);
            assert_eq!(read(0, &printed(&quote)).unwrap(), quote);
        }
    }

    #[test]
    fn other_output_is_refused() {
        let other = sample(4, 1, [4; 64]);
        let mut large = sample(4, 1, DATA.0);
        large.resize(td_quote::LIMIT + 1, 0);
        for (output, reason) in [
            (printed(&other), "does not contain the nonce"),
            (printed(&large), "has more than 262144 bytes"),
            (printed(b""), "ends within the header"),
            (b"tdx_guest".to_vec(), "printed no provider"),
            (Vec::new(), "printed no provider"),
        ] {
            let error = read(0, &output).unwrap_err();
            assert!(error.message().contains(reason), "{error}");
            assert!(error.message().contains("'web1'"), "{error}");
        }
    }

    #[test]
    fn each_exit_status_of_the_script_is_an_error_of_its_own() {
        let expected = [(10, 6), (11, 6), (12, 6), (13, 6), (14, 1), (15, 1), (16, 5), (17, 1)];
        for (status, exit_code) in expected {
            let error = read(status, b"sev_guest\n").unwrap_err();
            assert_eq!(error.kind().exit_code(), exit_code, "{status}: {error}");
            assert!(SCRIPT.contains(&format!("exit {status}")), "{status}");
        }
        let error = read(13, b"sev_guest\n").unwrap_err();
        assert!(error.message().contains("provider 'sev_guest'"), "{error}");
    }
}
