//! The exit statuses of all tools.

/// An exit status and its meaning.
pub(crate) type Status = (&'static str, &'static str);

/// The exit status of a check whose answer is no.
pub(crate) const CHECKED: &str = "10";

/// All exit statuses, in ascending order.
pub(crate) const STATUSES: [Status; 9] = [
    ("0", "The requested state holds, whether the command changed something or not."),
    ("1", "The operation failed."),
    ("2", "The command line is wrong."),
    ("3", "An input document or file is not what was expected."),
    ("4", "A named object does not exist. Deleting an absent object is not an error."),
    ("5", "Conflict: an object differs from the request, is busy or in use, or --yes is missing."),
    ("6", "The host lacks something that is needed: TDX, libvirt, a program, a version."),
    ("7", "The user lacks a permission."),
    (CHECKED, "A check ran, and its answer is no."),
];
