//! The program `tdx-iommu`. The code is in the library of the same name.

fn main() -> std::process::ExitCode {
    common::cli::main::<tdx_iommu::Cli>()
}
