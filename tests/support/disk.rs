//! Disks of a test's own, that fill up or lose their power.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::warden::{Folder, unmount_at_the_end};

/// A file system that is mounted in a folder. It takes root and a kernel that lets root mount.
pub struct Disk {
    place: PathBuf,
    image: PathBuf,
    _folder: Folder,
}

impl Disk {
    /// An ext4 file system in a file. None, with a word, where it can't be had.
    pub fn ext4() -> Option<Self> {
        let disk = Self::unmounted();
        let size = std::fs::File::create(&disk.image).and_then(|file| file.set_len(4 << 30));
        size.expect("a sparse file");
        let made = run("mkfs.ext4", &["-q", "-F", &disk.image.display().to_string()]);
        (made && disk.mount()).then_some(disk).or_else(skipped)
    }

    /// A file system in memory with so many bytes. None, with a word, where it can't be had.
    pub fn tmpfs(bytes: u64) -> Option<Self> {
        let disk = Self::unmounted();
        let size = format!("size={bytes}");
        let place = disk.place.display().to_string();
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &place]).then_some(disk).or_else(skipped)
    }

    fn unmounted() -> Self {
        let folder = Folder::new();
        let (place, image) = (folder.path().join("disk"), folder.path().join("image"));
        std::fs::create_dir(&place).expect("a folder");
        unmount_at_the_end(&place);
        Self { place, image, _folder: folder }
    }

    pub fn path(&self) -> &Path {
        &self.place
    }

    fn mount(&self) -> bool {
        let [image, place] = [&self.image, &self.place].map(|path| path.display().to_string());
        run("mount", &["-o", "loop", &image, &place])
    }

    /// Takes a tmpfs to another size.
    pub fn resize(&self, bytes: u64) {
        let size = format!("remount,size={bytes}");
        assert!(run("mount", &["-o", &size, &self.place.display().to_string()]), "it can be resized");
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.place).expect("a file system");
        (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    }

    /// From now on nothing reaches the disk, not even what was written already and not synced; this
    /// is the ioctl `FS_IOC_SHUTDOWN` with `NOLOGFLUSH`, which perl is there to call.
    pub fn cut_power(&self) {
        let call = "open(my $disk, '<', $ARGV[0]) or die $!; my $flags = pack('L', 2); \
                    ioctl($disk, 0x8004587d, $flags) or die $!";
        assert!(run("perl", &["-e", call, &self.place.display().to_string()]), "the power is cut");
    }

    /// What the disk held when its power was cut.
    pub fn restore_power(&self) {
        let place = self.place.display().to_string();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !run("umount", &[&place]) {
            assert!(Instant::now() < deadline, "somebody still uses {place}");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(self.mount(), "the file system recovers");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is still in use goes with the warden.
        run("umount", &[&self.place.display().to_string()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let status = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn skipped<T>() -> Option<T> {
    eprintln!("skipped: no file system can be made and mounted here (it takes root, and no container)");
    None
}
