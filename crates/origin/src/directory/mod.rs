//! [`DirectoryOrigin`]: a file a key.

mod store;

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use cap_std::{
    ambient_authority,
    fs::{Dir, File, OpenOptions, OpenOptionsExt},
};
use futures_util::future::BoxFuture;
use larder_core::{Error, Key, LoadError, LoadRequest, Loaded, Loader};
use rustix::{fs::OFlags, io::Errno};

use crate::{ConfigError, blocking::Threads, too_large};

/// Files that are read or written at once. Enough for a disk with a deep queue; few enough to leave the runtime most of its 512
/// threads for blocking work when the folder is on a network file system that hangs.
const THREADS_MAX: usize = 64;

/// What the names of files begin with that are being written. No key has a part that does, so that nobody reads or writes half a
/// value.
const TEMPORARY: &str = ".larder-tmp-";

/// The files below a folder, each the value of the key that is its path from there.
///
/// - `/` in a key leads into a sub-folder: the key `de/home` is the file `home` in the folder `de`.
/// - Every regular file below the folder is reachable by exactly one key, hidden ones too, but for those that are being written:
///   their names begin with `.larder-tmp-`, and with that no part of a key may. A key that no file below the folder can
///   have is nothing, as is a missing file: one with an empty part (`/a`, `a//b`, `a/`), with a part `.` or `..`, with a NUL
///   byte, or longer than the file system takes. Bytes that are not UTF-8 are bytes of the file name.
/// - A symbolic link is followed while it stays inside; one that leads out, or is absolute, is nothing.
/// - What isn't a regular file (a folder, FIFO, socket or device) is nothing, and never waited for.
/// - The folder is looked up anew for each load, so that it may be exchanged as a whole. Exchange a file by renaming the
///   new one over it: one that is written to while it is read may come torn.
///
/// A file that can't be read, or a folder that is gone, is a failure and not nothing. Needs a tokio runtime.
///
/// As a [`Store`](larder_core::Store) it makes a new file, brings it to the disk (`fsync`) and renames it over the old one, so that the
/// key has the old value or the new one, whole, also after the power failed. Folders are made as they are needed, and stay when their
/// last file is deleted. What replaces a symbolic link is a file in its place. A change is refused if no file can have the name or a
/// folder is in its place; where the disk is full or the folder may not be written, it is not made for now. It doesn't fence: of two nodes
/// that write to one folder, the later one wins. A process that is killed may leave a file `.larder-tmp-…` behind, which may be deleted once no
/// node writes.
///
/// # Examples
///
/// ```
/// use larder_core::{Found, Key, LoadRequest, Loader};
/// use larder_origin::DirectoryOrigin;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("greeting"), "hello")?;
///
/// let origin = DirectoryOrigin::open(folder.path())?;
/// let request = |key| LoadRequest {
///     key,
///     previous: None,
///     value_len_max: 1024,
///     deadline: tokio::time::Instant::now() + std::time::Duration::from_secs(10),
/// };
/// let loaded = origin.load(request(Key::new("greeting")?)).await?;
/// assert_eq!(loaded.found, Found::Value("hello".into()));
/// let loaded = origin.load(request(Key::new("../greeting")?)).await?;
/// assert_eq!(loaded.found, Found::Nothing);
/// # Ok(())
/// # }
/// ```
pub struct DirectoryOrigin {
    folder: Arc<Path>,
    threads: Threads,
}

impl DirectoryOrigin {
    /// The files below `path`; a relative path counts from the working directory of now. Looks at the folder once, and blocks for
    /// as long as that takes.
    ///
    /// # Errors
    ///
    /// Of the setting `path`, if it isn't a folder that can be opened.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path = path.into();
        let fail = |error: io::Error| {
            ConfigError::new("path", format!("{} can't be opened as a folder: {error}", path.display()))
        };
        let folder = std::path::absolute(&path).map_err(fail)?;
        open_folder(&folder).map_err(fail)?;
        Ok(Self { folder: folder.into(), threads: Threads::new(THREADS_MAX) })
    }
}

impl std::fmt::Debug for DirectoryOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectoryOrigin").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Loader for DirectoryOrigin {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move {
            if !is_file_name(&request.key) {
                return Ok(Loaded::nothing());
            }
            let folder = Arc::clone(&self.folder);
            let read = self.threads.run(move || read(&folder, &request.key, request.value_len_max)).await??;
            Ok(read.map_or(Loaded::nothing(), Loaded::value))
        })
    }
}

/// Whether a file below the folder could have `key` as its path, and as its only one: `a//b` and `a/./b` would be
/// further keys of the file `a/b`.
fn is_file_name(key: &Key) -> bool {
    let is_name = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.starts_with(TEMPORARY.as_bytes());
    key.as_bytes().split(|&byte| byte == b'/').all(is_name)
}

fn open_folder(folder: &Path) -> io::Result<Dir> {
    Dir::open_ambient_dir(folder, ambient_authority())
}

/// Reads the file of `key`, `None` if there is none. Reads none of it if it is longer than `len_max`.
fn read(folder: &Path, key: &Key, len_max: usize) -> Result<Option<Bytes>, Error> {
    let folder = open_folder(folder)
        .map_err(|error| Error::origin(format!("the origin's folder can't be opened ({error}): put it back")))?;
    let Some((file, len)) = open_file(&folder, key).map_err(unreadable)? else { return Ok(None) };
    if len > len_max as u64 {
        return Err(too_large(len_max));
    }
    // It may grow meanwhile, and files of some file systems have no size.
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(len_max));
    file.take((len_max as u64).saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > len_max {
        return Err(too_large(len_max));
    }
    Ok(Some(bytes.into_boxed_slice().into()))
}

/// Opens the file of `key` and tells its size in bytes; `None` if it isn't a regular file inside the folder.
fn open_file(folder: &Dir, key: &Key) -> io::Result<Option<(File, u64)>> {
    // Without NONBLOCK, opening a FIFO waits for its writer. NOCTTY: no terminal becomes that of this process.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let path = Path::new(OsStr::from_bytes(key.as_bytes()));
    let file = match folder.open_with(path, OpenOptions::new().read(true).custom_flags(flags)) {
        Err(error) if is_nothing(&error) => return Ok(None),
        opened => opened?,
    };
    // The type of what was opened: a look at the path could see another file.
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then(|| (file, metadata.len())))
}

/// Whether opening failed because there is no regular file of that name inside the folder.
fn is_nothing(error: &io::Error) -> bool {
    // INVAL and ILSEQ: a name that no file can have, because of a NUL byte or by the file system's own rules. NXIO and NODEV: a socket, or a device without a driver.
    const NOTHING: [Errno; 9] = [
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::NAMETOOLONG,
        Errno::LOOP,
        Errno::INVAL,
        Errno::ILSEQ,
        Errno::NXIO,
        Errno::NODEV,
    ];
    match Errno::from_io_error(error) {
        Some(errno) => NOTHING.contains(&errno),
        // What cap-std says itself, without the system: the path led out of the folder.
        None => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "takes it as `map_err` gives it")]
fn unreadable(error: io::Error) -> Error {
    Error::origin(format!("the key's file can't be read ({error}): see that this process may read it"))
}
