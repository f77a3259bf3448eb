/*
 * A stand-in for power loss, loaded with LD_PRELOAD under a dynamically linked build.
 *
 * kill -9 leaves the kernel's page cache alone, so that a test which only kills cannot
 * tell a flushed write from an unflushed one. This shim keeps, for every file under
 * CAIRN_SHIM_DIR, an undo journal of what was written since the file's last successful
 * fsync or fdatasync: the bytes and the size as they were before. The journal lies in
 * CAIRN_SHIM_JOURNAL, one file per inode. After the process was killed the harness puts
 * the old bytes back (see src/power.rs), which is a state that a power cut may leave.
 *
 * What it models:
 *   - data and size of a file are durable once fsync or fdatasync of it returned 0;
 *   - a file's name is durable once its directory was fsynced after its creation;
 *   - a journal outlives the process: what one process left unflushed stays unflushed
 *     for the next, until that one flushes it.
 * What it does not model: unlink, rename and mkdir are durable at once. For unlink that
 * is the worse of the two outcomes.
 *
 * Switches:
 *   <journal>/lie              while this file exists, fsync and fdatasync return 0 and
 *                              flush nothing: an acknowledgement precedes its flush.
 *   <journal>/fail-fsync       while this file exists, fsync and fdatasync fail (EIO).
 *   <journal>/stall            while this file exists, fsync and fdatasync do not return:
 *                              a kill finds what was written and not flushed.
 *   <journal>/die-removing     while this file exists, a process that removes a file ends
 *                              after that was noted and before it is done.
 *   <journal>/skew             while this file exists, clock_gettime tells the calendar a
 *                              minute ahead. Clocks that nobody sets are as they were.
 *
 * Locks: a file's lock is held over journal record and write, and over fsync and the
 * clearing of its journal, so that no write slips between the two. names_lock orders
 * creation against removal, since inode numbers are used again. names_lock is taken
 * before a file's lock, never after it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FDS_MAX 65536
#define SKEW_SECONDS 60
#define MAGIC 0x4f444e554e524943ull /* "CIRNUNDO" */

struct record {
    uint64_t magic, offset, length, size;
};

struct file {
    struct file *next;
    dev_t dev;
    ino_t ino;
    pthread_mutex_t lock;
    int journal; /* append-only descriptor of the undo journal */
    int content; /* read-only descriptor of the file, for its old bytes */
    int directory;
    int removed; /* its last name is gone: nothing of it survives anyway */
};

static char root[PATH_MAX];
static char journal_dir[PATH_MAX];
static size_t root_length;
static int active;
static _Atomic(struct file *) by_fd[FDS_MAX];
static struct file *files;
static pthread_mutex_t names_lock = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *why) {
    char line[256];
    int length = snprintf(line, sizeof line, "power-loss shim: %s (errno %d)\n", why, errno);
    syscall(SYS_write, 2, line, length);
    abort();
}

__attribute__((constructor)) static void start(void) {
    const char *dir = getenv("CAIRN_SHIM_DIR"), *journal = getenv("CAIRN_SHIM_JOURNAL");
    if (!dir || !journal)
        return;
    if (strlen(dir) >= PATH_MAX || strlen(journal) >= PATH_MAX - 64)
        die("a path is too long");
    strcpy(root, dir);
    strcpy(journal_dir, journal);
    root_length = strlen(root);
    active = 1;
}

static void journal_path(char *path, const char *suffix, uint64_t a, uint64_t b) {
    if (b)
        snprintf(path, PATH_MAX, "%s/%llu.%llu.%s", journal_dir, (unsigned long long)a,
                 (unsigned long long)b, suffix);
    else
        snprintf(path, PATH_MAX, "%s/%llu.%s", journal_dir, (unsigned long long)a, suffix);
}

static struct file *tracked(int fd) {
    if (!active || fd < 0 || fd >= FDS_MAX)
        return NULL;
    return atomic_load_explicit(&by_fd[fd], memory_order_acquire);
}

/*
 * Cuts a last record off that a process was killed over: the write that it was to undo never
 * began, and what is noted next must not stand behind half a record.
 */
static void cut_torn(int journal) {
    struct record head;
    struct stat st;
    uint64_t at = 0;
    if (fstat(journal, &st) < 0)
        die("cannot stat a journal");
    while (pread(journal, &head, sizeof head, at) == sizeof head && head.magic == MAGIC &&
           at + sizeof head + head.length <= (uint64_t)st.st_size)
        at += sizeof head + head.length;
    if (at < (uint64_t)st.st_size && syscall(SYS_ftruncate, journal, at) < 0)
        die("cannot cut a journal");
}

/* Called with names_lock held. */
static struct file *file_of(int fd, const struct stat *st) {
    struct file *f;
    for (f = files; f; f = f->next)
        if (f->ino == st->st_ino && f->dev == st->st_dev && !f->removed)
            return f;
    f = calloc(1, sizeof *f);
    if (!f)
        die("out of memory");
    f->dev = st->st_dev;
    f->ino = st->st_ino;
    f->directory = S_ISDIR(st->st_mode);
    f->journal = f->content = -1;
    pthread_mutex_init(&f->lock, NULL);
    if (!f->directory) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        f->content = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
        journal_path(path, "undo", f->ino, 0);
        f->journal = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (f->content < 0 || f->journal < 0)
            die("cannot open a journal");
        cut_torn(f->journal);
    }
    f->next = files;
    files = f;
    return f;
}

static void put(int fd, const void *bytes, size_t length) {
    const char *at = bytes;
    while (length) {
        ssize_t done = syscall(SYS_write, fd, at, length);
        if (done < 0) {
            if (errno == EINTR)
                continue;
            die("cannot write a journal");
        }
        at += done;
        length -= done;
    }
}

/* Keeps what [offset, offset + length) and the size are now. The file's lock is held. */
static void keep(struct file *f, uint64_t offset, uint64_t length) {
    struct stat st;
    if (fstat(f->content, &st) < 0)
        die("cannot stat a file");
    uint64_t size = st.st_size;
    if (offset >= size)
        length = 0;
    else if (length > size - offset)
        length = size - offset;
    char *old = malloc(sizeof(struct record) + length);
    if (!old)
        die("out of memory");
    uint64_t have = 0;
    while (have < length) {
        ssize_t got = pread(f->content, old + sizeof(struct record) + have, length - have, offset + have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            die("cannot read the old bytes");
        have += got;
    }
    struct record head = {MAGIC, offset, length, size};
    memcpy(old, &head, sizeof head);
    put(f->journal, old, sizeof head + length);
    free(old);
}

/* The file's lock, unless nothing of the file would survive. */
static int enter(struct file *f) {
    if (!f || f->directory)
        return 0;
    pthread_mutex_lock(&f->lock);
    if (f->removed) {
        pthread_mutex_unlock(&f->lock);
        return 0;
    }
    return 1;
}

static void leave(struct file *f) {
    int saved = errno;
    pthread_mutex_unlock(&f->lock);
    errno = saved;
}

/* ---- names ---- */

static int switched_on(const char *name);

static int inside(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int open_at(int dir, const char *path, int flags, mode_t mode) {
    if (!active)
        return syscall(SYS_openat, dir, path, flags, mode);
    pthread_mutex_lock(&names_lock);
    int existed = 1;
    if (flags & O_CREAT) {
        struct stat before;
        existed = fstatat(dir, path, &before, 0) == 0;
    }
    /* An existing file is cut only once its bytes were kept. */
    int cut = existed && (flags & O_TRUNC);
    int fd = syscall(SYS_openat, dir, path, cut ? flags & ~O_TRUNC : flags, mode);
    int saved = errno;
    if (fd >= 0) {
        char link[64], full[PATH_MAX];
        struct stat st;
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, full, sizeof full - 1);
        full[length < 0 ? 0 : length] = 0;
        struct file *f = NULL;
        if (inside(full) && fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))) {
            if (fd >= FDS_MAX)
                die("too many open files");
            f = file_of(fd, &st);
            if (!existed && !f->directory) {
                struct stat parent;
                *strrchr(full, '/') = 0;
                if (stat(full, &parent) == 0) {
                    char marker[PATH_MAX];
                    journal_path(marker, "new", parent.st_ino, st.st_ino);
                    int made = syscall(SYS_openat, AT_FDCWD, marker, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
                    if (made < 0)
                        die("cannot note a new file");
                    syscall(SYS_close, made);
                }
            }
        }
        if (fd < FDS_MAX)
            atomic_store_explicit(&by_fd[fd], f, memory_order_release);
        if (cut) {
            if (enter(f)) {
                keep(f, 0, UINT64_MAX);
                leave(f);
            }
            if (syscall(SYS_ftruncate, fd, 0) < 0)
                die("cannot truncate");
        }
    }
    pthread_mutex_unlock(&names_lock);
    errno = saved;
    return fd;
}

#define MODE_OF(flags)                                       \
    mode_t mode = 0;                                         \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                 \
        va_list rest;                                        \
        va_start(rest, flags);                               \
        mode = va_arg(rest, mode_t);                         \
        va_end(rest);                                        \
    }

int open(const char *path, int flags, ...) { MODE_OF(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE_OF(flags) return open_at(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE_OF(flags) return open_at(dir, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    if (active && fd >= 0 && fd < FDS_MAX)
        atomic_store_explicit(&by_fd[fd], NULL, memory_order_release);
    return syscall(SYS_close, fd);
}

static int copied(int from, int to) {
    if (active && from >= 0 && from < FDS_MAX && to >= 0 && to < FDS_MAX)
        atomic_store_explicit(&by_fd[to], atomic_load(&by_fd[from]), memory_order_release);
    return to;
}

int dup(int fd) { return copied(fd, syscall(SYS_dup, fd)); }
int dup3(int from, int to, int flags) { return copied(from, syscall(SYS_dup3, from, to, flags)); }
int dup2(int from, int to) { return from == to ? to : dup3(from, to, 0); }

static int control(int fd, int command, long argument) {
    int result = syscall(SYS_fcntl, fd, command, argument);
    if (result >= 0 && (command == F_DUPFD || command == F_DUPFD_CLOEXEC))
        copied(fd, result);
    return result;
}

#define ARGUMENT(last)                     \
    va_list rest;                          \
    va_start(rest, last);                  \
    long argument = va_arg(rest, long);    \
    va_end(rest);

int fcntl(int fd, int command, ...) { ARGUMENT(command) return control(fd, command, argument); }
int fcntl64(int fd, int command, ...) { ARGUMENT(command) return control(fd, command, argument); }

/*
 * The last name of an inode is going: forget it before its number is used again. Before it
 * goes, too: a process that is killed between the two leaves a file that counts as flushed,
 * as it may be. The other way round, what was noted of the file that went would count for
 * whichever file is given its number.
 */
static void forget(const struct stat *st) {
    struct file **at = &files;
    while (*at) {
        struct file *f = *at;
        if (f->ino == st->st_ino && f->dev == st->st_dev && !f->removed) {
            pthread_mutex_lock(&f->lock);
            f->removed = 1;
            if (f->journal >= 0)
                syscall(SYS_close, f->journal);
            if (f->content >= 0)
                syscall(SYS_close, f->content);
            pthread_mutex_unlock(&f->lock);
        }
        at = &f->next;
    }
    char path[PATH_MAX];
    journal_path(path, "undo", st->st_ino, 0);
    syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    DIR *dir = opendir(journal_dir);
    if (!dir)
        return;
    char suffix[64];
    snprintf(suffix, sizeof suffix, ".%llu.new", (unsigned long long)st->st_ino);
    for (struct dirent *entry; (entry = readdir(dir));) {
        size_t length = strlen(entry->d_name), tail = strlen(suffix);
        if (length > tail && strcmp(entry->d_name + length - tail, suffix) == 0)
            syscall(SYS_unlinkat, dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
}

int unlinkat(int dir, const char *path, int flags) {
    if (!active || (flags & AT_REMOVEDIR))
        return syscall(SYS_unlinkat, dir, path, flags);
    struct stat st;
    pthread_mutex_lock(&names_lock);
    int last = fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 1;
    if (last)
        forget(&st);
    if (switched_on("die-removing"))
        _exit(9);
    int result = syscall(SYS_unlinkat, dir, path, flags), saved = errno;
    pthread_mutex_unlock(&names_lock);
    errno = saved;
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

static int rename_at(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    if (!active)
        return syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    struct stat st;
    pthread_mutex_lock(&names_lock);
    int last = fstatat(to_dir, to, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 1;
    if (last && !(flags & (RENAME_EXCHANGE | RENAME_NOREPLACE)))
        forget(&st);
    int result = syscall(SYS_renameat2, from_dir, from, to_dir, to, flags), saved = errno;
    pthread_mutex_unlock(&names_lock);
    errno = saved;
    return result;
}

int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int fd, const char *from, int td, const char *to) { return rename_at(fd, from, td, to, 0); }
int renameat2(int fd, const char *from, int td, const char *to, unsigned flags) {
    return rename_at(fd, from, td, to, flags);
}

/* ---- content ---- */

static size_t total(const struct iovec *parts, int count) {
    size_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += parts[i].iov_len;
    return sum;
}

/* Where a write without an offset goes. */
static uint64_t cursor(struct file *f, int fd) {
    struct stat st;
    int flags = syscall(SYS_fcntl, fd, F_GETFL, 0);
    if ((flags & O_APPEND) && fstat(f->content, &st) == 0)
        return st.st_size;
    off_t at = lseek(fd, 0, SEEK_CUR);
    return at < 0 ? 0 : at;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    struct file *f = tracked(fd);
    if (!enter(f))
        return syscall(SYS_write, fd, bytes, length);
    keep(f, cursor(f, fd), length);
    ssize_t result = syscall(SYS_write, fd, bytes, length);
    leave(f);
    return result;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct file *f = tracked(fd);
    if (!enter(f))
        return syscall(SYS_writev, fd, parts, count);
    keep(f, cursor(f, fd), total(parts, count));
    ssize_t result = syscall(SYS_writev, fd, parts, count);
    leave(f);
    return result;
}

static ssize_t write_at(int fd, const void *bytes, size_t length, off_t offset) {
    struct file *f = tracked(fd);
    if (!enter(f))
        return syscall(SYS_pwrite64, fd, bytes, length, offset);
    keep(f, offset, length);
    ssize_t result = syscall(SYS_pwrite64, fd, bytes, length, offset);
    leave(f);
    return result;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return write_at(fd, bytes, length, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) { return write_at(fd, bytes, length, offset); }

static ssize_t writev_at(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    struct file *f = tracked(fd);
    if (!enter(f))
        return syscall(SYS_pwritev2, fd, parts, count, offset, 0L, flags);
    keep(f, offset < 0 ? cursor(f, fd) : (uint64_t)offset, total(parts, count));
    ssize_t result = syscall(SYS_pwritev2, fd, parts, count, offset, 0L, flags);
    leave(f);
    return result;
}

ssize_t pwritev(int fd, const struct iovec *p, int n, off_t offset) { return writev_at(fd, p, n, offset, 0); }
ssize_t pwritev64(int fd, const struct iovec *p, int n, off_t offset) { return writev_at(fd, p, n, offset, 0); }
ssize_t pwritev2(int fd, const struct iovec *p, int n, off_t o, int flags) { return writev_at(fd, p, n, o, flags); }
ssize_t pwritev64v2(int fd, const struct iovec *p, int n, off_t o, int flags) { return writev_at(fd, p, n, o, flags); }

static int truncate_fd(int fd, off_t size) {
    struct file *f = tracked(fd);
    if (!enter(f))
        return syscall(SYS_ftruncate, fd, size);
    keep(f, size, UINT64_MAX);
    int result = syscall(SYS_ftruncate, fd, size);
    leave(f);
    return result;
}

int ftruncate(int fd, off_t size) { return truncate_fd(fd, size); }
int ftruncate64(int fd, off_t size) { return truncate_fd(fd, size); }

static int allocate(int fd, int mode, off_t offset, off_t length) {
    struct file *f = tracked(fd);
    if (!enter(f))
        return syscall(SYS_fallocate, fd, mode, offset, length);
    /* Collapsing or inserting a range moves everything behind it. */
    int moves = mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE);
    int clears = mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);
    keep(f, offset, moves ? UINT64_MAX : clears ? (uint64_t)length : 0);
    int result = syscall(SYS_fallocate, fd, mode, offset, length);
    leave(f);
    return result;
}

int fallocate(int fd, int mode, off_t offset, off_t length) { return allocate(fd, mode, offset, length); }
int fallocate64(int fd, int mode, off_t offset, off_t length) { return allocate(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length) { return allocate(fd, 0, offset, length) ? errno : 0; }
int posix_fallocate64(int fd, off_t offset, off_t length) { return allocate(fd, 0, offset, length) ? errno : 0; }

/* Callers fall back to plain reads and writes, which are journaled. */
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t length, unsigned flags) {
    if (tracked(out)) {
        errno = ENOSYS;
        return -1;
    }
    return syscall(SYS_copy_file_range, in, in_at, out, out_at, length, flags);
}

static ssize_t send_file(int out, int in, off_t *offset, size_t count) {
    if (tracked(out)) {
        errno = ENOSYS;
        return -1;
    }
    return syscall(SYS_sendfile, out, in, offset, count);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t count) { return send_file(out, in, offset, count); }
ssize_t sendfile64(int out, int in, off64_t *offset, size_t count) { return send_file(out, in, offset, count); }

static void *map(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    if (!(flags & MAP_ANONYMOUS) && (flags & MAP_SHARED) && (protection & PROT_WRITE) && tracked(fd))
        die("a file is written through a mapping, which cannot be journaled");
    return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
}

void *mmap(void *a, size_t l, int p, int f, int fd, off_t o) { return map(a, l, p, f, fd, o); }
void *mmap64(void *a, size_t l, int p, int f, int fd, off_t o) { return map(a, l, p, f, fd, o); }

/* ---- durability ---- */

static int switched_on(const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", journal_dir, name);
    return access(path, F_OK) == 0;
}

/* Every name in the directory is durable now. */
static void names_are_durable(struct file *f) {
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%llu.", (unsigned long long)f->ino);
    DIR *dir = opendir(journal_dir);
    if (!dir)
        die("cannot list the journals");
    for (struct dirent *entry; (entry = readdir(dir));) {
        size_t length = strlen(entry->d_name);
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0 && length > 4 &&
            strcmp(entry->d_name + length - 4, ".new") == 0)
            syscall(SYS_unlinkat, dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
}

static int flush(int fd, long call) {
    struct file *f = tracked(fd);
    if (!f)
        return syscall(call, fd);
    while (switched_on("stall")) {
        /* Without a lock: others may write meanwhile, as they may beside a slow disk. */
        struct timespec pause = {0, 1000000};
        nanosleep(&pause, NULL);
    }
    if (switched_on("fail-fsync")) {
        errno = EIO;
        return -1;
    }
    if (switched_on("lie"))
        return 0;
    if (f->directory) {
        pthread_mutex_lock(&names_lock);
        int result = syscall(call, fd), saved = errno;
        if (result == 0)
            names_are_durable(f);
        pthread_mutex_unlock(&names_lock);
        errno = saved;
        return result;
    }
    if (!enter(f))
        return syscall(call, fd);
    int result = syscall(call, fd);
    if (result == 0 && syscall(SYS_ftruncate, f->journal, 0) < 0)
        die("cannot clear a journal");
    leave(f);
    return result;
}

int fsync(int fd) { return flush(fd, SYS_fsync); }
int fdatasync(int fd) { return flush(fd, SYS_fdatasync); }

/* ---- the calendar ---- */

int clock_gettime(clockid_t clock, struct timespec *now) {
    static _Atomic(int (*)(clockid_t, struct timespec *)) real;
    int (*ask)(clockid_t, struct timespec *) = atomic_load_explicit(&real, memory_order_acquire);
    if (!ask) {
        /* What the kernel maps into the process is faster than a system call. */
        *(void **)&ask = dlsym(RTLD_NEXT, "clock_gettime");
        if (!ask)
            die("there is no clock");
        atomic_store_explicit(&real, ask, memory_order_release);
    }
    int result = ask(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME && active) {
        int saved = errno;
        if (switched_on("skew"))
            now->tv_sec += SKEW_SECONDS;
        errno = saved;
    }
    return result;
}
