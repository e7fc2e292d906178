//! Large read-only files in memory, as pages that the kernel may drop and read again.
//!
//! Mapping a file that others can write to is not sound: its bytes may change under a reference, and reading beyond a new,
//! smaller end kills the process. An operator who copies a new database over an old one does exactly that. So what is
//! mapped here is a private copy without a name, which nobody else can open.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// A mapped private copy of a file. Dropping it frees the copy's disk space.
#[derive(Debug)]
pub struct PrivateMap(Mmap);

impl AsRef<[u8]> for PrivateMap {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl PrivateMap {
    /// Copies `source` into an unnamed file in the folder `scratch` and maps that. Blocks while it copies.
    ///
    /// # Errors
    /// When the source cannot be read, or the folder's disk has no room for it.
    pub fn copy_of(source: &Path, scratch: &Path) -> io::Result<Self> {
        let mut original = File::open(source)?;
        let mut copy = tempfile::tempfile_in(scratch)?;
        io::copy(&mut original, &mut copy)?;
        map(&copy).map(Self)
    }
}

#[expect(
    unsafe_code,
    reason = "memory maps are unsafe by nature; docs/adr/0013 says why this one is sound"
)]
fn map(copy: &File) -> io::Result<Mmap> {
    // SAFETY: nobody can change or shorten the file while it is mapped. It has no name (`tempfile_in` opens it with
    // O_TMPFILE, or unlinks it at once), its only descriptor is dropped by our caller without being written to again, and
    // the map itself is read-only.
    unsafe { Mmap::map(copy) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_outlives_changes_of_the_source() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&source, &content).unwrap();
        let map = PrivateMap::copy_of(&source, folder.path()).unwrap();
        // Written over in place, cut short, removed: the worst that an operator can do.
        std::fs::write(&source, b"short").unwrap();
        assert_eq!(map.as_ref(), content);
        std::fs::remove_file(&source).unwrap();
        assert_eq!(map.as_ref(), content);
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 0, "the copy has no name");
    }

    #[test]
    fn errors_and_empty_files() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = PrivateMap::copy_of(&missing, folder.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        std::fs::write(&missing, b"").unwrap();
        let empty = PrivateMap::copy_of(&missing, folder.path()).unwrap();
        assert!(empty.as_ref().is_empty());
    }
}
