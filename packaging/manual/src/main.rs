//! Writes the manual pages of all tools and of all their verbs; or the reference pages of the documentation; or prints
//! the licence notices of the crates that the tools are linked with.
//!
//! ```sh
//! manual DIRECTORY [DATE]
//! manual --reference REPOSITORY DIRECTORY
//! manual --notices
//! ```
//!
//! The description, the options and the examples of a page come from the definition of the command line.
//! [`documentation`] has the exit statuses and more examples, and [`subject`] the environment variables and files of each
//! tool.

mod documentation;
mod messages;
mod notices;
mod page;
mod subject;

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::{env, fs};

use page::Page;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let folder =
        PathBuf::from(arguments.next().ok_or("usage: manual DIRECTORY [DATE] | manual --notices")?);
    if folder.as_os_str() == "--notices" {
        return Ok(io::stdout().write_all(notices::notices()?.as_bytes())?);
    }
    if folder.as_os_str() == "--reference" {
        let mut directory = || arguments.next().map(PathBuf::from).ok_or("no directory");
        return write_reference(&directory()?, &directory()?);
    }
    let date =
        arguments.next().unwrap_or_default().into_string().map_err(|_| "DATE is not UTF-8")?;
    fs::create_dir_all(&folder)?;
    let subjects = subject::all();
    for subject in &subjects {
        for command in subject.commands() {
            let page = Page { subject, command, subjects: &subjects, date: &date };
            // A terminal that supports only ASCII cannot show an ellipsis.
            let text = String::from_utf8(page.render()?)?.replace('…', "...");
            fs::write(folder.join(page.file()), text)?;
        }
    }
    Ok(())
}

/// Writes `messages.md`, and `verbs/NAME.md` for each tool and each verb with its help.
fn write_reference(repository: &Path, directory: &Path) -> Result<(), Box<dyn Error>> {
    let verbs = directory.join("verbs");
    fs::create_dir_all(&verbs)?;
    fs::write(directory.join("messages.md"), messages::messages(repository)?)?;
    for subject in &subject::all() {
        for command in subject.commands() {
            let mut command = command.clone().term_width(100).disable_colored_help(true);
            let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
            let title = command.get_bin_name().unwrap_or(&name).to_owned();
            let help = command.render_long_help();
            let text = format!("# {title}\n\n```text\n{}\n```\n", help.to_string().trim_end());
            fs::write(verbs.join(format!("{name}.md")), text)?;
        }
    }
    Ok(())
}
