//! What a layer directory holds although it changes nothing: copied up for a change that was taken back.

use std::path::{Path, PathBuf};

use cooper_rooted::{Dir, Kind};

use super::same::{carried, look, same_dir, same_object};
use crate::error::Result;

/// The paths below `upper`, a layer's directory, that say the same as `below`, the tree that the layer lies on: what its
/// archive leaves out. What is in a directory comes before the directory. `is_opaque` tells directories that hide those
/// below them; they and the directories in them stay.
///
/// # Errors
///
/// When either tree cannot be read.
pub fn unchanged(upper: &Dir, below: &Dir, is_opaque: &dyn Fn(&Dir) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(upper, below, Path::new(""), is_opaque, is_opaque(upper), &mut found)?;
    Ok(found)
}

/// Returns whether nothing of the directory is left.
fn walk(
    upper: &Dir,
    below: &Dir,
    path: &Path,
    is_opaque: &dyn Fn(&Dir) -> bool,
    replaced: bool,
    found: &mut Vec<PathBuf>,
) -> Result<bool> {
    let mut nothing_left = true;
    for entry in upper.entries()? {
        let name = &entry.name;
        let before = below.try_stat(name)?.filter(|m| !m.is_whiteout());
        let same = match before {
            None => false,
            Some(before) if entry.kind == Kind::Dir => {
                before.is_dir() && {
                    let (dir, old) = (upper.open_dir(name)?, below.open_dir(name)?);
                    let replaced = replaced || is_opaque(&dir);
                    let emptied = walk(&dir, &old, &path.join(name), is_opaque, replaced, found)?;
                    emptied && !replaced && same_dir(&old, &dir.metadata()?, &carried(dir.xattrs()?))?
                }
            }
            Some(before) => {
                let (now, _) = look(upper, name, entry.kind)?;
                // A file that got a second name is a change by that name.
                now.stat.nlink == 1 && !now.stat.is_whiteout() && same_object(below, &before, upper, name, &now)?
            }
        };
        if same {
            found.push(path.join(name));
        } else {
            nothing_left = false;
        }
    }
    Ok(nothing_left)
}
