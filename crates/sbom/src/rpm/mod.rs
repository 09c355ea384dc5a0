//! Packages of rpm: headers as blobs in one of three kinds of database.

mod header;
mod ndb;
mod sqlite;

use crate::{Distro, Package, PackageUrl, files::ReadAt, scan::Scanner};
use header::Header;

/// Where distributions keep their database; one may be a link to another.
const DIRS: [&str; 3] = ["usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"];

/// Reads every blob of a database.
type Reader = fn(&dyn ReadAt) -> Result<Vec<Vec<u8>>, Error>;

/// The databases by their names.
const READERS: [(&str, Reader); 2] = [("rpmdb.sqlite", sqlite::blobs), ("Packages.db", ndb::blobs)];

/// Why a database is not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file is not what its name says.
    #[error("damaged {kind} database: {what}")]
    Damaged {
        /// `SQLite` or `ndb`.
        kind: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

/// Reads every package that is installed.
pub fn scan(scanner: &mut Scanner) {
    for dir in DIRS {
        let before = scanner.distro().cloned();
        for (name, read) in READERS {
            let path = format!("{dir}/{name}");
            let Some(file) = scanner.open(&path) else { continue };
            match read(file.as_ref()) {
                Ok(blobs) => add(scanner, &path, before.as_ref(), &blobs),
                Err(error) => scanner.note(&path, error),
            }
            let log = format!("{path}-wal");
            if scanner.open(&log).and_then(|log| log.size().ok()).is_some_and(|size| size > 0) {
                scanner.note(&log, "not read: packages whose records are only in this log are missing");
            }
            return;
        }
        let path = format!("{dir}/Packages");
        if scanner.open(&path).is_some() {
            scanner.note(&path, "not read: rpm databases of Berkeley DB are not supported");
            return;
        }
    }
}

fn add(scanner: &mut Scanner, path: &str, distro: Option<&Distro>, blobs: &[Vec<u8>]) {
    let vendor = distro.map_or("", Distro::vendor);
    let qualifier = distro.map(Distro::qualifier).unwrap_or_default();
    for blob in blobs {
        let Some(header) = Header::parse(blob) else {
            scanner.note(path, "a record is not a package header");
            continue;
        };
        let name = header.text(header::NAME);
        // Keys that signatures are checked with are kept as if they were packages.
        if name.is_empty() || name == "gpg-pubkey" {
            continue;
        }
        let version = format!("{}-{}", header.text(header::VERSION), header.text(header::RELEASE));
        let epoch = header.number(header::EPOCH).filter(|e| *e > 0).map(|e| e.to_string()).unwrap_or_default();
        let url = PackageUrl::new("rpm", vendor, &name, &version)
            .with("arch", header.text(header::ARCH))
            .with("epoch", epoch)
            .with("distro", qualifier.clone());
        let mut package = Package::new(url).licensed([header.text(header::LICENSE)]);
        let some = |tag| Some(header.text(tag)).filter(|t: &String| !t.is_empty());
        package.supplier = some(header::VENDOR);
        package.homepage = some(header::URL);
        package.source = some(header::SOURCE);
        scanner.add(package, [path.to_owned()]);
    }
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::check_bytes;

    /// A header with these tags.
    fn header(tags: &[(u32, &str)], epoch: Option<u32>) -> Vec<u8> {
        let (mut index, mut data) = (Vec::new(), Vec::new());
        for (tag, text) in tags {
            for word in [*tag, 6, data.len() as u32, 1] {
                index.extend(word.to_be_bytes());
            }
            data.extend(text.bytes().chain([0]));
        }
        if let Some(epoch) = epoch {
            while data.len() % 4 != 0 {
                data.push(0);
            }
            for word in [super::header::EPOCH, 4, data.len() as u32, 1] {
                index.extend(word.to_be_bytes());
            }
            data.extend(epoch.to_be_bytes());
        }
        let mut out = Vec::new();
        out.extend((index.len() as u32 / 16).to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(index);
        out.extend(data);
        out
    }

    fn headers() -> Vec<Vec<u8>> {
        let long = "x".repeat(9000);
        vec![
            header(&[(1000, "bash"), (1001, "5.1.8"), (1002, "9.el9"), (1014, "GPLv3+"), (1022, "x86_64")], None),
            header(&[(1000, "gpg-pubkey"), (1001, "1"), (1002, "1")], None),
            // More than a page: its record goes on elsewhere.
            header(
                &[(1000, "dbus"), (1001, "1.12.20"), (1002, "8.el9"), (1004, &long), (1044, "dbus-1.src.rpm")],
                Some(1),
            ),
        ]
    }

    #[test]
    fn slots_of_ndb() {
        let mut db = vec![0; 4096];
        db[..4].copy_from_slice(b"RpmP");
        db[12..16].copy_from_slice(&1u32.to_le_bytes());
        for (i, header) in headers().iter().enumerate() {
            let slot = 32 + i * 16;
            db[slot..slot + 4].copy_from_slice(b"Slot");
            db[slot + 4..slot + 8].copy_from_slice(&(i as u32 + 1).to_le_bytes());
            let at = db.len() as u32 / 16;
            db[slot + 8..slot + 12].copy_from_slice(&at.to_le_bytes());
            db.extend(*b"BlbS");
            db.extend((i as u32 + 1).to_le_bytes());
            db.extend(0u32.to_le_bytes());
            db.extend((header.len() as u32).to_le_bytes());
            db.extend(header);
            db.resize(db.len().next_multiple_of(16), 0);
        }
        let release: &[u8] = b"ID=\"sles\"\nVERSION_ID=\"15.6\"\n";
        let found = check_bytes([("etc/os-release", release), ("usr/lib/sysimage/rpm/Packages.db", &db)]);
        insta::assert_snapshot!(found, @"
        pkg:rpm/suse/bash@5.1.8-9.el9?arch=x86_64&distro=sles-15.6 [GPLv3+] /usr/lib/sysimage/rpm/Packages.db
        pkg:rpm/suse/dbus@1.12.20-8.el9?distro=sles-15.6&epoch=1 from dbus-1.src.rpm /usr/lib/sysimage/rpm/Packages.db
        ");
        let found = check_bytes([("usr/lib/sysimage/rpm/Packages.db", &db[..4200])]);
        insta::assert_snapshot!(found, @"! /usr/lib/sysimage/rpm/Packages.db: damaged ndb database: a blob ends early");
    }

    /// The database is made by the real program.
    #[test]
    fn tables_of_sqlite() {
        use std::fmt::Write as _;
        let dir = std::env::temp_dir().join(format!("cooper-sbom-sqlite-{}", std::process::id()));
        let mut sql =
            "CREATE TABLE Other(x);CREATE TABLE Packages(hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL);"
                .to_owned();
        for i in 0..400 {
            let headers = headers();
            let mut blob = headers[i % 3].clone();
            if i >= 3 {
                let name = format!("p{i:03}");
                blob = header(&[(1000, name.as_str()), (1001, "1"), (1002, "2")], None);
            }
            write!(sql, "INSERT INTO Packages(blob) VALUES (x'").unwrap();
            blob.iter().for_each(|b| write!(sql, "{b:02x}").unwrap());
            sql.push_str("');");
        }
        let script = dir.with_extension("sql");
        std::fs::write(&script, sql).unwrap();
        let input = std::fs::File::open(&script).unwrap();
        let made = std::process::Command::new("sqlite3").arg(&dir).stdin(input).status();
        let db = std::fs::read(&dir);
        std::fs::remove_file(&script).ok();
        std::fs::remove_file(&dir).ok();
        if made.is_err() {
            eprintln!("skipped: there is no sqlite3");
            return;
        }
        let db = db.unwrap();
        let release: &[u8] = b"ID=rhel\nVERSION_ID=9.4\n";
        let found = check_bytes([
            ("etc/os-release", release),
            ("var/lib/rpm/rpmdb.sqlite", &db),
            ("var/lib/rpm/rpmdb.sqlite-wal", b"x"),
        ]);
        assert_eq!(found.lines().count(), 399 + 1);
        let start: Vec<_> = found.lines().take(3).chain(found.lines().last()).collect();
        insta::assert_snapshot!(start.join("\n"), @"
        pkg:rpm/redhat/bash@5.1.8-9.el9?arch=x86_64&distro=rhel-9.4 [GPLv3+] /var/lib/rpm/rpmdb.sqlite
        pkg:rpm/redhat/dbus@1.12.20-8.el9?distro=rhel-9.4&epoch=1 from dbus-1.src.rpm /var/lib/rpm/rpmdb.sqlite
        pkg:rpm/redhat/p003@1-2?distro=rhel-9.4 /var/lib/rpm/rpmdb.sqlite
        ! /var/lib/rpm/rpmdb.sqlite-wal: not read: packages whose records are only in this log are missing
        ");
        for cut in [10, 100, 5000, 30000] {
            let found = check_bytes([("var/lib/rpm/rpmdb.sqlite", &db[..cut])]);
            assert!(found.starts_with("! /var/lib/rpm/rpmdb.sqlite: "), "{found}");
        }
    }

    #[test]
    fn berkeley_db_is_told_of() {
        insta::assert_snapshot!(check_bytes([("var/lib/rpm/Packages", &b"x"[..])]), @"! /var/lib/rpm/Packages: not read: rpm databases of Berkeley DB are not supported");
    }
}
