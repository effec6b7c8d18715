//! [`DiskStorage`]: a file of the file system.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{fs::FallocateFlags, io::Errno};

use super::{Fill, Storage, StorageFile};

/// A file at a path. Its folder is made if it isn't there.
///
/// A second file beside it, of the same name with `.lock` appended, is locked while it is open: the file itself is exchanged
/// when it is created, and a lock would stay with the one that went. The lock ends with the process, however that ends.
///
/// # Examples
///
/// ```
/// use larder_origin::storage::{DiskStorage, Storage};
///
/// let folder = tempfile::tempdir()?;
/// let storage = DiskStorage::new(folder.path().join("data/file"));
/// let file = storage.open(&mut |new| {
///     new.write(0, b"hello")?;
///     new.sync()
/// })?;
/// assert_eq!(file.len()?, 5);
/// let second = DiskStorage::new(folder.path().join("data/file")).open(&mut |_| unreachable!());
/// assert_eq!(second.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DiskStorage {
    path: PathBuf,
}

impl DiskStorage {
    /// The file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn create(&self, folder: &Path, fill: Fill<'_>) -> io::Result<()> {
        let new = with_suffix(&self.path, ".new");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new)?;
        let file: Arc<dyn StorageFile> = Arc::new(DiskFile { file, _lock: None });
        fill(&file)?;
        file.sync()?;
        fs::rename(&new, &self.path)?;
        sync_folder(folder)
    }
}

impl Storage for DiskStorage {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn open(&self, fill: Fill<'_>) -> io::Result<Arc<dyn StorageFile>> {
        let folder = folder_of(&self.path);
        make_folder(&folder)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(lock_of(&self.path))?;
        try_lock(&lock)?;
        let open = || OpenOptions::new().read(true).write(true).open(&self.path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create(&folder, fill)?;
                open()?
            }
            opened => opened?,
        };
        Ok(Arc::new(DiskFile { file, _lock: Some(lock) }))
    }
}

#[derive(Debug)]
struct DiskFile {
    file: File,
    _lock: Option<File>,
}

impl StorageFile for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.len()?;
        if len > old {
            allot(&self.file, old, len - old)?;
        }
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        // The length counts as data: without it what was appended could not be read.
        self.file.sync_data()
    }
}

/// Has the file system set room aside, so that it is full when a file grows and not when it is written to.
fn allot(file: &File, at: u64, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), at, len) {
        // Not every file system can: there a write may find it full.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        allotted => Ok(allotted?),
    }
}

/// A file that is looked at and never written to, while nobody else has it open.
#[derive(Debug)]
pub(crate) struct ReadOnlyFile {
    file: File,
    _lock: Option<File>,
}

impl ReadOnlyFile {
    /// Opens `path`. A folder without a lock file belongs to nobody, and none is made.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let lock = match File::open(lock_of(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened?),
        };
        lock.as_ref().map_or(Ok(()), try_lock)?;
        Ok(Self { file: File::open(path)?, _lock: lock })
    }

    pub(crate) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }
}

fn try_lock(lock: &File) -> io::Result<()> {
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::from(io::ErrorKind::WouldBlock),
        TryLockError::Error(error) => error,
    })
}

fn lock_of(path: &Path) -> PathBuf {
    with_suffix(path, ".lock")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes `folder` and those above it, and has each new one's name outlast the machine.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    make_folder(&above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    sync_folder(&above)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
