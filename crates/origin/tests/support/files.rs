//! An origin whose values are files below a folder, arranged for the suites of loads and of writes.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path};

use larder_core::{
    Key, Loader, Store,
    testing::{loader, store},
};
use tempfile::TempDir;

pub(crate) struct Files<O> {
    pub(crate) origin: O,
    pub(crate) folder: TempDir,
    /// Whether a file can have this as a part of its path.
    fits: fn(&[u8]) -> bool,
}

impl<O> Files<O> {
    pub(crate) fn new(open: impl FnOnce(&Path) -> O, fits: fn(&[u8]) -> bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { origin: open(folder.path()), folder, fits }
    }
}

impl<O: Loader> loader::Arrange for Files<O> {
    fn loader(&self) -> &dyn Loader {
        &self.origin
    }

    fn put(&self, key: &Key, value: &[u8]) -> bool {
        let name = key.as_bytes();
        if !name.split(|&byte| byte == b'/').all(|part| !matches!(part, b"" | b"." | b"..") && (self.fits)(part)) {
            return false;
        }
        let path = self.folder.path().join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).is_ok() && fs::write(path, value).is_ok()
    }

    fn hang(&self, _: &Key) -> bool {
        false
    }

    fn fail(&self, _: &Key) -> bool {
        false
    }
}

impl<O: Loader + Store> store::Arrange for Files<O> {
    fn store(&self) -> &dyn Store {
        &self.origin
    }

    fn loader(&self) -> &dyn Loader {
        &self.origin
    }

    /// By a folder in its place, unless there is a file.
    fn refuse(&self, key: &Key) -> bool {
        let path = self.folder.path().join(OsStr::from_bytes(key.as_bytes()));
        !path.exists() && fs::create_dir(path).is_ok()
    }

    fn keep_out(&self, _: &Key) -> bool {
        false
    }

    fn break_off(&self, _: &Key) -> bool {
        false
    }

    fn hang(&self, _: &Key) -> bool {
        false
    }
}
