//! Writes the manual pages of all tools and of all their verbs, or prints the licence notices of the crates that the
//! tools are linked with.
//!
//! ```sh
//! manual DIRECTORY [DATE]
//! manual --notices
//! ```
//!
//! The description, the options and the examples of a page come from the definition of the command line. [`status`] has
//! the exit statuses, and [`subject`] the environment variables and files of each tool.

mod notices;
mod page;
mod readme;
mod status;
mod subject;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::{env, fs};

use page::Page;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let folder =
        PathBuf::from(arguments.next().ok_or("usage: manual DIRECTORY [DATE] | manual --notices")?);
    if folder.as_os_str() == "--notices" {
        return Ok(io::stdout().write_all(notices::notices()?.as_bytes())?);
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
