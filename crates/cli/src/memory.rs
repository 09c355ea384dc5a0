//! How this process holds memory. Nothing here decides what is allocated.

/// Sets the allocator up for a process that lives long and works in bursts. To be called before there are threads.
///
/// The system's allocator gives each thread an arena that it seldom gives memory back from, and learns to keep large
/// buffers after the first ones were freed. Two arenas are enough for what is allocated here, buffers of [`LARGE`] bytes
/// are the kernel's again as soon as they are free, and so is what lies at the end of an arena.
pub fn set_up() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE)]
    {
        // SAFETY: mallopt takes two integers, and touches nothing but the allocator's own settings.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Bytes from which an allocation is a mapping of its own, above the buffers that come and go all the time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 512 << 10;

/// Gives back what only the start needed: free heap, and the pages of code that are mapped though they will not run again.
/// Those that do run are mapped again from the page cache.
pub fn settle() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: malloc_trim touches free memory only.
        unsafe { libc::malloc_trim(0) };
    }
    #[cfg(target_os = "linux")]
    for (start, length) in own_code() {
        let address = std::ptr::with_exposed_provenance_mut::<libc::c_void>(start);
        // SAFETY: the mapping is this program's code: it is private, read-only and never written to, so that its pages
        // are those of the file, from which they come back when they are used next.
        if unsafe { libc::madvise(address, length, libc::MADV_DONTNEED) } != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "code that is not used stays in memory");
        }
    }
}

/// Where the executable's code is mapped: addresses and lengths.
#[cfg(target_os = "linux")]
fn own_code() -> Vec<(usize, usize)> {
    let (Ok(maps), Ok(program)) = (std::fs::read_to_string("/proc/self/maps"), std::fs::read_link("/proc/self/exe"))
    else {
        return Vec::new();
    };
    code_of(&maps, &program.to_string_lossy())
}

/// The private, executable, read-only mappings of `program` in the text of `/proc/<pid>/maps`.
#[cfg(target_os = "linux")]
fn code_of(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let mapping = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (range, rights) = (fields.next()?, fields.next()?);
        let path = line.find('/').map(|at| &line[at..])?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        (rights == "r-xp" && path == program && start < end).then_some((start, end - start))
    };
    maps.lines().filter_map(mapping).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn code_is_told_from_data() {
        let maps = "\
            1000-2000 r--p 00000000 fe:00 42 /bin/a b\n\
            2000-5000 r-xp 00001000 fe:00 42 /bin/a b\n\
            5000-6000 rw-p 00004000 fe:00 42 /bin/a b\n\
            7000-8000 r-xp 00000000 fe:00 43 /lib/libc.so.6\n\
            9000-a000 rw-p 00000000 00:00 0 [heap]\n\
            b000-c000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(code_of(maps, "/bin/a b"), [(0x2000, 0x3000)]);
        assert_eq!(code_of(maps, "/bin/a"), []);
    }

    #[test]
    fn code_runs_on_after_it_was_given_back() {
        assert!(!own_code().is_empty());
        settle();
        assert_eq!((1..=100).sum::<u32>(), 5050);
    }
}
