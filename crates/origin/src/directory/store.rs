//! Writes: a new file is made beside the old one, brought to the disk whole, and renamed over it.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path, sync::Arc};

use cap_std::fs::{Dir, OpenOptions};
use futures_util::future::BoxFuture;
use larder_core::{Change, Key, Store, Update, UpdateError, Version};
use rustix::{
    fs::{OFlags, fsync, openat},
    io::Errno,
};

use super::{DirectoryOrigin, TEMPORARY, is_file_name, is_nothing, open_folder};

/// How many names are tried for a new file. Each is of this change alone, unless it is repeated while the first try still runs, or was
/// broken off before by the end of the process.
const NAMES_MAX: u32 = 16;

impl Store for DirectoryOrigin {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(async move {
            let folder = Arc::clone(&self.folder);
            let made = self.threads.run(move || make(&folder, &update)).await;
            made.map_err(|error| UpdateError::unknown(error.message()))?
        })
    }
}

fn make(folder: &Path, update: &Update) -> Result<(), UpdateError> {
    let folder = open_folder(folder).map_err(|error| {
        UpdateError::unreached(format_args!("the origin's folder can't be opened ({error}): put it back"))
    })?;
    match &update.change {
        Change::Put(value) => put(&folder, &update.key, value, update.version),
        Change::Delete => delete(&folder, &update.key),
    }
}

fn put(folder: &Dir, key: &Key, value: &[u8], version: Version) -> Result<(), UpdateError> {
    if !is_file_name(key) {
        return Err(UpdateError::refused("no file of the origin's folder can have such a name: choose another key"));
    }
    let (folders, name) = parts(key);
    let mut parent = folder.try_clone().map_err(unmade)?;
    for name in folders {
        parent = open_or_make(&parent, name).map_err(unmade)?;
    }
    let written = write(&parent, value, version).map_err(unmade)?;
    let renamed = parent.rename(&written, &parent, name).map_err(|error| {
        // Without the rename nothing has changed; but a disk that failed may have done it.
        if is_of_the_disk(&error) { unknown(error) } else { unmade(error) }
    });
    if renamed.is_err() {
        // It is one file more than there should be, and harms nobody.
        let _removed = parent.remove_file(&written);
    }
    renamed?;
    sync(&parent).map_err(unknown)
}

fn delete(folder: &Dir, key: &Key) -> Result<(), UpdateError> {
    if !is_file_name(key) {
        return Ok(());
    }
    let (folders, name) = parts(key);
    let mut parent = folder.try_clone().map_err(unmade)?;
    for name in folders {
        parent = match parent.open_dir(name) {
            Err(error) if is_nothing(&error) => return Ok(()),
            opened => opened.map_err(unmade)?,
        };
    }
    match parent.symlink_metadata(name) {
        Err(error) if is_nothing(&error) => return Ok(()),
        found => {
            // A folder has no value.
            if found.map_err(unmade)?.is_dir() {
                return Ok(());
            }
        }
    }
    match parent.remove_file(name) {
        Err(error) if is_nothing(&error) => Ok(()),
        Err(error) if is_of_the_disk(&error) => Err(unknown(error)),
        Err(error) => Err(unmade(error)),
        Ok(()) => sync(&parent).map_err(unknown),
    }
}

/// The folders of a key's path, and its file.
fn parts(key: &Key) -> (impl Iterator<Item = &OsStr>, &OsStr) {
    let bytes = key.as_bytes();
    let end = bytes.iter().rposition(|&byte| byte == b'/');
    let (folders, name) = match end {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (&[][..], bytes),
    };
    let folders = folders.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
    (folders.map(OsStr::from_bytes), OsStr::from_bytes(name))
}

fn open_or_make(parent: &Dir, name: &OsStr) -> io::Result<Dir> {
    match parent.open_dir(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match parent.create_dir(name) {
        // Another write was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // Without this, a file that is on the disk may be in a folder that isn't.
        made => made.and_then(|()| sync(parent))?,
    }
    parent.open_dir(name)
}

/// Writes a new file to the disk, and tells its name.
fn write(parent: &Dir, value: &[u8], version: Version) -> io::Result<String> {
    for number in 0..NAMES_MAX {
        let name = format!("{TEMPORARY}{version}-{number}");
        let mut file = match parent.open_with(&name, OpenOptions::new().write(true).create_new(true)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            opened => opened?,
        };
        let written = io::Write::write_all(&mut file, value).and_then(|()| file.sync_all());
        if let Err(error) = written {
            let _removed = parent.remove_file(&name);
            return Err(error);
        }
        return Ok(name);
    }
    Err(io::Error::other(format!("there are already {NAMES_MAX} files of this change")))
}

/// Brings what a folder lists to the disk.
fn sync(folder: &Dir) -> io::Result<()> {
    // What `folder` itself is may be good for nothing but to open things beneath it.
    let folder = openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    Ok(fsync(&folder)?)
}

/// Whether an operation failed in such a way that it may have been done all the same.
fn is_of_the_disk(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::STALE | Errno::TIMEDOUT))
}

/// What failed before anything changed. The change is to blame if no file can have its name or its size; else it may be made once there is
/// room, or the folder may be written to again.
#[expect(clippy::needless_pass_by_value, reason = "takes it as `map_err` gives it")]
fn unmade(error: io::Error) -> UpdateError {
    let is_refused = is_nothing(&error) || Errno::from_io_error(&error) == Some(Errno::FBIG);
    let what = format_args!("the key's file can't be written ({error}): see its folder and its disk");
    if is_refused { UpdateError::refused(what) } else { UpdateError::unreached(what) }
}

#[expect(clippy::needless_pass_by_value, reason = "takes it as `map_err` gives it")]
fn unknown(error: io::Error) -> UpdateError {
    UpdateError::unknown(format_args!("nobody knows if the key's file is on the disk ({error}): see to the disk"))
}
