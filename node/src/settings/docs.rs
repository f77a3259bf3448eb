//! `docs/settings.md`, made of the table.

use std::fmt::Write as _;

use super::kinds::Group;
use super::table::SETTINGS;

/// The page as it stands in `docs/settings.md`.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Settings\n\n\
         <!-- Written by `cairn settings --markdown`; a test compares. -->\n\n\
         A node is set up by environment variables, or by flags of the same names:\n\
         `CAIRN_REPLICATION_FACTOR=3` is `--replication-factor 3`. A flag wins over its variable,\n\
         and an empty variable counts as not given. Everything is checked before anything is\n\
         opened, and every problem is reported at once. Sizes take `KiB`, `MiB` and `GiB`.\n",
    );
    for group in Group::ALL {
        // Writing to a String cannot fail.
        let _ = write!(
            page,
            "\n## {}\n\n{}\n\n| variable | role | default | value | what for |\n| --- | --- | --- | --- | --- |\n",
            group.title(),
            group.about()
        );
        for setting in SETTINGS.iter().filter(|s| s.group == group) {
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} | {} |",
                setting.name,
                setting.roles.label(),
                setting.default,
                setting.unit,
                setting.purpose
            );
        }
    }
    page
}
