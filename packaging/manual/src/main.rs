//! Writes the manual pages of all tools, one for each tool and one for each of its verbs, or prints the notices
//! about the crates that the tools are linked with.
//!
//! ```sh
//! manual FOLDER [DATE]
//! manual --notices
//! ```
//!
//! What a page says of a command line is made of the command line's own definition; the exit statuses
//! are the README's. [`subject`] has the rest: what surrounds each tool.

mod notices;
mod page;
mod readme;
mod subject;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::{env, fs};

use page::Page;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let folder =
        PathBuf::from(arguments.next().ok_or("usage: manual FOLDER [DATE], or manual --notices")?);
    if folder.as_os_str() == "--notices" {
        return Ok(io::stdout().write_all(notices::notices()?.as_bytes())?);
    }
    let date = arguments.next().unwrap_or_default().into_string().map_err(|_| "no such date")?;
    fs::create_dir_all(&folder)?;
    let subjects = subject::all();
    for subject in &subjects {
        for command in subject.commands() {
            let page = Page { subject, command, subjects: &subjects, date: &date };
            // A terminal that knows ASCII alone has no such letter.
            let text = String::from_utf8(page.render()?)?.replace('…', "...");
            fs::write(folder.join(page.file()), text)?;
        }
    }
    Ok(())
}
