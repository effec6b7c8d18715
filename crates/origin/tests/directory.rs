//! The directory origin, against real folders.

#![expect(clippy::unwrap_used, reason = "a test fails by its panic")]

#[cfg(feature = "journal")]
#[path = "support/behind.rs"]
mod behind;
#[path = "support/files.rs"]
mod files;

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use files::Files;

use larder_core::{
    Error, Found, Key, LoadError, Loaded, Loader, Store, Update, UpdateError, loader_contract, store_contract,
    testing::{
        loader::{VALUE_LEN_MAX, request},
        needs::needs,
        store::{delete, put, version},
    },
};
use larder_origin::DirectoryOrigin;
use rustix::fs::{CWD, FileType, Mode, mknodat};

async fn load(origin: &DirectoryOrigin, key: impl AsRef<[u8]>) -> Result<Loaded, LoadError> {
    origin.load(request(&Key::copy_from(key.as_ref()).unwrap())).await
}

type Directory = Files<DirectoryOrigin>;

fn directory() -> Directory {
    Files::new(|folder| DirectoryOrigin::open(folder).unwrap(), |part| !part.contains(&0) && part.len() <= 255)
}

impl Directory {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn found(&self, key: impl AsRef<[u8]>) -> Found {
        load(&self.origin, key).await.unwrap().found
    }
}

loader_contract!(contract, directory());
store_contract!(writes, directory());
#[cfg(feature = "journal")]
behind::behind_contract!(behind_writes, directory());

#[tokio::test]
async fn a_slash_leads_into_a_sub_folder() {
    let directory = directory();
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
    let directory = directory();
    fs::create_dir(directory.path("releases")).unwrap();
    fs::write(directory.path("releases/2"), "two").unwrap();
    symlink("releases/2", directory.path("current")).unwrap();
    symlink("../releases", directory.path("releases/again")).unwrap();
    assert_eq!(directory.found("current").await, Found::Value("two".into()));
    assert_eq!(directory.found("releases/again/2").await, Found::Value("two".into()));
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_nothing() {
    let directory = directory();
    symlink("missing", directory.path("dangling")).unwrap();
    symlink("loop-b", directory.path("loop-a")).unwrap();
    symlink("loop-a", directory.path("loop-b")).unwrap();
    assert_eq!(directory.found("dangling").await, Found::Nothing);
    assert_eq!(directory.found("loop-a").await, Found::Nothing);
}

#[tokio::test]
async fn a_fifo_socket_device_or_folder_is_nothing_and_not_waited_for() {
    let directory = directory();
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
    let directory = directory();
    fs::write(directory.path(&"n".repeat(255)), "longest").unwrap();
    assert_eq!(directory.found("n".repeat(255)).await, Found::Value("longest".into()));
    assert_eq!(directory.found("n".repeat(256)).await, Found::Nothing);
    assert_eq!(directory.found("n/".repeat(511) + "n").await, Found::Nothing);
}

#[tokio::test]
async fn a_file_over_the_limit_is_refused_before_it_is_read() {
    let directory = directory();
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
    let directory = directory();
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
    let directory = directory();
    fs::write(directory.path("file"), "x").unwrap();
    for name in ["file", "missing"] {
        let error = DirectoryOrigin::open(directory.path(name)).unwrap_err();
        assert_eq!(error.setting(), "path");
        assert!(error.message().contains(name), "{error}");
    }
}

#[tokio::test]
async fn many_loads_at_once_are_each_answered() {
    let directory = directory();
    fs::write(directory.path("file"), vec![b'x'; VALUE_LEN_MAX]).unwrap();
    let loads = (0..500).map(|_| directory.found("file"));
    for found in futures_util::future::join_all(loads).await {
        assert!(matches!(found, Found::Value(value) if value.len() == VALUE_LEN_MAX));
    }
}

async fn make(origin: &DirectoryOrigin, update: Update) -> Result<(), UpdateError> {
    origin.update(update).await
}

fn key(bytes: impl AsRef<[u8]>) -> Key {
    Key::copy_from(bytes.as_ref()).unwrap()
}

fn refusal(answer: Result<(), UpdateError>) -> String {
    let Err(UpdateError::Refused(error)) = answer else { panic!("{answer:?}") };
    error.to_string()
}

fn kept_out(answer: Result<(), UpdateError>) -> String {
    let Err(UpdateError::Unreached(error)) = answer else { panic!("{answer:?}") };
    error.to_string()
}

/// The names of all files and folders below, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        if path.is_dir() && !path.is_symlink() {
            names.extend(self::names(&path));
        }
    }
    names.sort();
    names
}

#[tokio::test]
async fn folders_are_made_as_they_are_needed_and_nothing_else_is_left_behind() {
    let directory = directory();
    for (name, place) in [("de/x/home", 1), ("de/x/away", 2), ("de/home", 3), ("de/x/home", 4)] {
        make(&directory.origin, put(&key(name), name, place)).await.unwrap();
        assert_eq!(fs::read(directory.path(name)).unwrap(), name.as_bytes());
    }
    make(&directory.origin, delete(&key("de/x/away"), 5)).await.unwrap();
    make(&directory.origin, delete(&key("fr/x/away"), 5)).await.unwrap();
    assert_eq!(names(directory.folder.path()), ["de", "home", "home", "x"]);
}

#[tokio::test]
async fn what_no_file_can_be_called_is_refused() {
    let directory = directory();
    fs::create_dir(directory.path("folder")).unwrap();
    fs::write(directory.path("file"), "value").unwrap();
    let long = "n".repeat(256);
    for name in
        ["", "..", "../outside", "a//b", "/a", "a/", "a/./b", "nul\0", "folder", "file/x", &long, ".larder-tmp-x"]
            .into_iter()
            .filter(|name| !name.is_empty())
    {
        refusal(make(&directory.origin, put(&key(name), "v", 1)).await);
        make(&directory.origin, delete(&key(name), 2)).await.unwrap();
        assert_eq!(directory.found(name).await, Found::Nothing, "{name}");
    }
    assert_eq!(names(directory.folder.path()), ["file", "folder"]);
    assert_eq!(directory.found("file").await, Found::Value("value".into()));
}

#[tokio::test]
async fn nothing_outside_of_the_folder_is_written_or_deleted() {
    let around = tempfile::tempdir().unwrap();
    let (folder, outside) = (around.path().join("folder"), around.path().join("outside"));
    fs::create_dir(&folder).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "as it was").unwrap();
    symlink("../outside", folder.join("out")).unwrap();
    symlink(&outside, folder.join("absolute")).unwrap();
    symlink("../outside/file", folder.join("link")).unwrap();
    let origin = DirectoryOrigin::open(&folder).unwrap();
    for name in ["out/file", "absolute/file", "out/new"] {
        refusal(make(&origin, put(&key(name), "v", 1)).await);
        // There is nothing inside to delete.
        let _answer = make(&origin, delete(&key(name), 2)).await;
    }
    // The link is replaced, not what it leads to.
    make(&origin, put(&key("link"), "inside", 3)).await.unwrap();
    assert_eq!(load(&origin, "link").await.unwrap(), Loaded::value("inside"));
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"as it was");
    assert_eq!(names(&outside), ["file"]);
}

#[tokio::test]
async fn a_file_that_is_being_written_is_out_of_every_keys_reach() {
    let directory = directory();
    // As a process leaves them that is killed in the middle of this very change.
    let names = [0, 1].map(|number| format!(".larder-tmp-{}-{number}", version(1)));
    for name in &names {
        fs::write(directory.path(name), "half").unwrap();
        assert_eq!(directory.found(name).await, Found::Nothing);
    }
    make(&directory.origin, put(&key("k"), "whole", 1)).await.unwrap();
    assert_eq!(directory.found("k").await, Found::Value("whole".into()));
    for name in &names {
        make(&directory.origin, delete(&key(name), 2)).await.unwrap();
        assert_eq!(fs::read(directory.path(name)).unwrap(), b"half");
    }
}

#[tokio::test]
async fn readers_see_the_old_value_or_the_new_one_and_nothing_between() {
    let directory = directory();
    let value = |byte: u8| vec![byte; VALUE_LEN_MAX];
    make(&directory.origin, put(&key("k"), value(0), 1)).await.unwrap();
    let writes = async {
        for place in 1..20_u8 {
            make(&directory.origin, put(&key("k"), value(place), place.into())).await.unwrap();
        }
    };
    let reads = async {
        loop {
            let Found::Value(value) = directory.found("k").await else { panic!("it is there") };
            assert!(value.len() == VALUE_LEN_MAX && value.iter().all(|byte| *byte == value[0]));
        }
    };
    tokio::select! {
        () = writes => {}
        () = reads => {}
    }
}

#[tokio::test]
async fn a_disk_that_is_full_takes_nothing_for_now_and_keeps_the_old_value() {
    if !needs("mount") {
        return;
    }
    let directory = directory();
    let disk = directory.path("disk");
    fs::create_dir(&disk).unwrap();
    rustix::mount::mount("larder", &disk, "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=64k")).unwrap();
    make(&directory.origin, put(&key("disk/k"), "small", 1)).await.unwrap();
    let answer = make(&directory.origin, put(&key("disk/k"), vec![0; VALUE_LEN_MAX], 2)).await;
    let (found, names) = (directory.found("disk/k").await, names(&disk));
    rustix::mount::unmount(&disk, rustix::mount::UnmountFlags::DETACH).unwrap();
    let why = kept_out(answer);
    assert!(why.contains("No space left"), "{why}");
    assert_eq!(found, Found::Value("small".into()));
    assert_eq!(names, ["k"]);
}

#[tokio::test]
async fn a_folder_that_is_gone_takes_nothing_for_now() {
    let directory = directory();
    let origin = DirectoryOrigin::open(directory.folder.path()).unwrap();
    fs::remove_dir(directory.folder.path()).unwrap();
    let why = kept_out(make(&origin, put(&key("k"), "v", 1)).await);
    assert!(why.contains("folder can't be opened"), "{why}");
    fs::create_dir(directory.folder.path()).unwrap();
}
