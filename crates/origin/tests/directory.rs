//! The directory origin, against real folders.

#![expect(clippy::unwrap_used, reason = "a test fails by its panic")]

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use larder_core::{
    Error, Found, Key, LoadError, Loaded, Loader, loader_contract,
    testing::loader::{Arrange, VALUE_LEN_MAX, request},
};
use larder_origin::DirectoryOrigin;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

async fn load(origin: &DirectoryOrigin, key: impl AsRef<[u8]>) -> Result<Loaded, LoadError> {
    origin.load(request(&Key::copy_from(key.as_ref()).unwrap())).await
}

struct Directory {
    origin: DirectoryOrigin,
    folder: TempDir,
}

impl Directory {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { origin: DirectoryOrigin::open(folder.path()).unwrap(), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn found(&self, key: impl AsRef<[u8]>) -> Found {
        load(&self.origin, key).await.unwrap().found
    }
}

impl Arrange for Directory {
    fn loader(&self) -> &dyn Loader {
        &self.origin
    }

    fn put(&self, key: &Key, value: &[u8]) -> bool {
        let name = key.as_bytes();
        let parts = || name.split(|&byte| byte == b'/');
        if name.contains(&0) || parts().any(|part| [&b""[..], b".", b".."].contains(&part) || part.len() > 255) {
            return false;
        }
        let path = self.folder.path().join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).is_ok()
    }

    fn hang(&self, _: &Key) -> bool {
        false
    }

    fn fail(&self, _: &Key) -> bool {
        false
    }
}

loader_contract!(contract, Directory::new());

#[tokio::test]
async fn a_slash_leads_into_a_sub_folder() {
    let directory = Directory::new();
    fs::create_dir_all(directory.path("de/.hidden")).unwrap();
    fs::write(directory.path("de/.hidden/home"), "hi").unwrap();
    assert_eq!(directory.found("de/.hidden/home").await, Found::Value("hi".into()));
    for key in [
        "de",
        "de/",
        "de/.hidden",
        "de/home",
        "/de/.hidden/home",
        "de//.hidden/home",
        "de/./.hidden/home",
        "de/.hidden/../.hidden/home",
        "de/.hidden/home/",
        "de/.hidden/home/x",
    ] {
        assert_eq!(directory.found(key).await, Found::Nothing, "{key}");
    }
}

#[tokio::test]
async fn nothing_outside_of_the_folder_is_found() {
    let around = tempfile::tempdir().unwrap();
    let folder = around.path().join("folder");
    fs::create_dir_all(folder.join("sub")).unwrap();
    let outside = around.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "secret").unwrap();
    for (link, to) in [
        ("relative", Path::new("../outside/file")),
        ("absolute", &outside.join("file")),
        ("folder", Path::new("../outside")),
        ("sub/up", Path::new("../..")),
        ("root", Path::new("/")),
    ] {
        symlink(to, folder.join(link)).unwrap();
    }
    let origin = DirectoryOrigin::open(&folder).unwrap();
    let absolute = outside.join("file");
    let from_root = format!("root{}", absolute.display());
    for key in [
        "../outside/file",
        "sub/../../outside/file",
        "relative",
        "absolute",
        "folder/file",
        "sub/up/outside/file",
        &from_root,
        absolute.to_str().unwrap(),
        "root/etc/passwd",
        "/etc/passwd",
        "..\0/outside/file",
    ] {
        assert_eq!(load(&origin, key).await.unwrap(), Loaded::nothing(), "{key}");
    }
}

#[tokio::test]
async fn a_link_that_stays_inside_is_followed() {
    let directory = Directory::new();
    fs::create_dir(directory.path("releases")).unwrap();
    fs::write(directory.path("releases/2"), "two").unwrap();
    symlink("releases/2", directory.path("current")).unwrap();
    symlink("../releases", directory.path("releases/again")).unwrap();
    assert_eq!(directory.found("current").await, Found::Value("two".into()));
    assert_eq!(directory.found("releases/again/2").await, Found::Value("two".into()));
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_nothing() {
    let directory = Directory::new();
    symlink("missing", directory.path("dangling")).unwrap();
    symlink("loop-b", directory.path("loop-a")).unwrap();
    symlink("loop-a", directory.path("loop-b")).unwrap();
    assert_eq!(directory.found("dangling").await, Found::Nothing);
    assert_eq!(directory.found("loop-a").await, Found::Nothing);
}

#[tokio::test]
async fn a_fifo_socket_device_or_folder_is_nothing_and_not_waited_for() {
    let directory = Directory::new();
    mknodat(CWD, directory.path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    symlink("fifo", directory.path("link")).unwrap();
    let _socket = UnixListener::bind(directory.path("socket")).unwrap();
    fs::create_dir(directory.path("folder")).unwrap();
    // /dev/zero, which would never end; only root may make it.
    let _ = mknodat(CWD, directory.path("zero"), FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 5));
    for key in ["fifo", "link", "socket", "folder", "zero"] {
        assert_eq!(directory.found(key).await, Found::Nothing, "{key}");
    }
}

#[tokio::test]
async fn a_name_longer_than_the_file_system_takes_is_nothing() {
    let directory = Directory::new();
    fs::write(directory.path(&"n".repeat(255)), "longest").unwrap();
    assert_eq!(directory.found("n".repeat(255)).await, Found::Value("longest".into()));
    assert_eq!(directory.found("n".repeat(256)).await, Found::Nothing);
    assert_eq!(directory.found("n/".repeat(511) + "n").await, Found::Nothing);
}

#[tokio::test]
async fn a_file_over_the_limit_is_refused_before_it_is_read() {
    let directory = Directory::new();
    // A file of a size that no memory has, and no disk either: its blocks are holes.
    fs::File::create(directory.path("huge")).unwrap().set_len(1 << 40).unwrap();
    let error = load(&directory.origin, "huge").await.unwrap_err();
    assert!(error.downcast_ref::<Error>().unwrap().is_too_large(), "{error}");
}

#[tokio::test]
async fn a_file_whose_size_is_not_known_is_read_to_its_end_and_to_the_limit() {
    // Files of procfs have contents, and say 0 bytes.
    let Ok(origin) = DirectoryOrigin::open("/proc/self") else { return };
    let expected = fs::read("/proc/self/cmdline").unwrap();
    assert_eq!(load(&origin, "cmdline").await.unwrap().found, Found::Value(expected.clone().into()));

    let mut request = request(&Key::new("cmdline").unwrap());
    request.value_len_max = expected.len() - 1;
    let error = origin.load(request).await.unwrap_err();
    assert!(error.downcast_ref::<Error>().unwrap().is_too_large(), "{error}");
}

#[tokio::test]
async fn a_file_that_may_not_be_read_is_a_failure() {
    let directory = Directory::new();
    let path = directory.path("closed");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    if fs::read(&path).is_ok() {
        // Root may read everything.
        return;
    }
    let error = load(&directory.origin, "closed").await.unwrap_err().to_string();
    assert!(error.contains("can't be read") && !error.contains("closed"), "{error}");
}

#[tokio::test]
async fn a_folder_may_be_exchanged_and_one_that_is_gone_is_a_failure() {
    let around = tempfile::tempdir().unwrap();
    let folder = around.path().join("folder");
    for name in ["one", "two"] {
        fs::create_dir(around.path().join(name)).unwrap();
        fs::write(around.path().join(name).join("file"), name).unwrap();
    }
    symlink("one", &folder).unwrap();
    let origin = DirectoryOrigin::open(&folder).unwrap();
    assert_eq!(load(&origin, "file").await.unwrap(), Loaded::value("one"));
    fs::remove_file(&folder).unwrap();
    let error = load(&origin, "file").await.unwrap_err().to_string();
    assert!(error.contains("folder can't be opened"), "{error}");
    symlink("two", &folder).unwrap();
    assert_eq!(load(&origin, "file").await.unwrap(), Loaded::value("two"));
}

#[test]
fn what_is_no_folder_cannot_be_opened() {
    let directory = Directory::new();
    fs::write(directory.path("file"), "x").unwrap();
    for name in ["file", "missing"] {
        let error = DirectoryOrigin::open(directory.path(name)).unwrap_err();
        assert_eq!(error.setting(), "path");
        assert!(error.message().contains(name), "{error}");
    }
}

#[tokio::test]
async fn many_loads_at_once_are_each_answered() {
    let directory = Directory::new();
    fs::write(directory.path("file"), vec![b'x'; VALUE_LEN_MAX]).unwrap();
    let loads = (0..500).map(|_| directory.found("file"));
    for found in futures_util::future::join_all(loads).await {
        assert!(matches!(found, Found::Value(value) if value.len() == VALUE_LEN_MAX));
    }
}
