//! `tdx-iommu`: see the library for what it does.

fn main() -> std::process::ExitCode {
    common::cli::main::<tdx_iommu::Cli>()
}
