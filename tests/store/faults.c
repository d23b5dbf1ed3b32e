/* A disk that fails, or a machine that dies, at a chosen system call: loaded with LD_PRELOAD (glibc).
 *
 * Counted are the calls that change files below the directories of FAULT_ROOTS (separated by colons), by their path or
 * by the path of their descriptor. What happens at call number FAULT_AT is said by FAULT_MODE:
 *
 *   kill     SIGKILL to this process; of a write, the first half happens before
 *   once     the call fails with FAULT_ERRNO
 *   lasting  so does every later call that needs room or the disk; of the first write, half happens before
 *
 * FAULT_LOG names a file to which the name of every counted call is appended. FAULT_NO_NETWORK=1 lets every connection
 * that is not a Unix socket's fail with ENETUNREACH. The variables are read at each call, so that a process may set
 * them for itself after a fork; the count starts at the process's first call.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* What a call is, for the modes: whether a full disk can refuse it, and whether an I/O error can. */
enum kind { NEEDS_ROOM, NEEDS_DISK, NEEDS_NOTHING };

static int calls;

static int below_roots(const char *path) {
    const char *roots = getenv("FAULT_ROOTS");
    if (!roots || !path) return 0;
    while (*roots) {
        size_t length = strcspn(roots, ":");
        if (length && !strncmp(path, roots, length) && (path[length] == '/' || !path[length])) return 1;
        roots += length + (roots[length] == ':');
    }
    return 0;
}

static int descriptor_below_roots(int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below_roots(path);
}

static int path_below_roots(int directory, const char *path) {
    if (!path) return 0;
    return path[0] == '/' || directory == AT_FDCWD ? below_roots(path) : descriptor_below_roots(directory);
}

static void log_call(const char *name) {
    const char *path = getenv("FAULT_LOG");
    if (!path) return;
    char line[64];
    int length = snprintf(line, sizeof line, "%s\n", name);
    /* Raw calls, which are not counted. */
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file < 0) return;
    if (syscall(SYS_write, file, line, (size_t)length) < 0) abort();
    syscall(SYS_close, file);
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* Count one call. Nonzero, and errno set, where it is to fail; -1 where half of it is to happen before. */
static int fails(const char *name, enum kind kind, int can_be_halved) {
    const char *mode = getenv("FAULT_MODE"), *at = getenv("FAULT_AT");
    int number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    log_call(name);
    if (!mode || !at || number < atoi(at)) return 0;
    int first = number == atoi(at);
    if (!strcmp(mode, "kill")) {
        if (first && !can_be_halved) die();
        return first ? -1 : 0;
    }
    const char *code = getenv("FAULT_ERRNO");
    int wanted = code ? atoi(code) : EIO;
    int concerned = kind == NEEDS_ROOM || (kind == NEEDS_DISK && wanted != ENOSPC && wanted != EDQUOT);
    if (!concerned || (!first && strcmp(mode, "lasting"))) return 0;
    errno = wanted;
    return first && can_be_halved && !strcmp(mode, "lasting") ? -1 : 1;
}

static int killing(void) {
    const char *mode = getenv("FAULT_MODE");
    return mode && !strcmp(mode, "kill");
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define BY_DESCRIPTOR(name, kind, descriptor, call)                                 \
    do {                                                                            \
        REAL(name);                                                                 \
        if (descriptor_below_roots(descriptor) && fails(#name, kind, 0)) return -1; \
        return real call;                                                           \
    } while (0)

#define BY_PATH(name, kind, directory, path, call)                                    \
    do {                                                                              \
        REAL(name);                                                                   \
        if (path_below_roots(directory, path) && fails(#name, kind, 0)) return -1;    \
        return real call;                                                             \
    } while (0)

/* --- descriptors --- */

ssize_t write(int fd, const void *data, size_t count) {
    REAL(write);
    if (!descriptor_below_roots(fd)) return real(fd, data, count);
    int failure = fails("write", NEEDS_ROOM, 1);
    if (failure > 0) return -1;
    if (failure < 0) {
        ssize_t done = real(fd, data, count / 2);
        if (killing()) die();
        return done ? done : (errno = ENOSPC, -1);
    }
    return real(fd, data, count);
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t at) {
    BY_DESCRIPTOR(pwrite, NEEDS_ROOM, fd, (fd, data, count, at));
}
ssize_t pwrite64(int fd, const void *data, size_t count, off64_t at) {
    BY_DESCRIPTOR(pwrite64, NEEDS_ROOM, fd, (fd, data, count, at));
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    BY_DESCRIPTOR(writev, NEEDS_ROOM, fd, (fd, parts, count));
}
int fsync(int fd) { BY_DESCRIPTOR(fsync, NEEDS_ROOM, fd, (fd)); }
int fdatasync(int fd) { BY_DESCRIPTOR(fdatasync, NEEDS_ROOM, fd, (fd)); }
int ftruncate(int fd, off_t length) { BY_DESCRIPTOR(ftruncate, NEEDS_DISK, fd, (fd, length)); }
int ftruncate64(int fd, off64_t length) { BY_DESCRIPTOR(ftruncate64, NEEDS_DISK, fd, (fd, length)); }
int fchmod(int fd, mode_t mode) { BY_DESCRIPTOR(fchmod, NEEDS_DISK, fd, (fd, mode)); }
int flock(int fd, int operation) { BY_DESCRIPTOR(flock, NEEDS_NOTHING, fd, (fd, operation)); }

/* --- opening --- */

#define OPENING(name, directory, call)                                                           \
    do {                                                                                         \
        REAL(name);                                                                              \
        mode_t mode = 0;                                                                         \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                   \
            va_list more;                                                                        \
            va_start(more, flags);                                                               \
            mode = va_arg(more, mode_t);                                                         \
            va_end(more);                                                                        \
        }                                                                                        \
        if (flags & (O_CREAT | O_TRUNC) && path_below_roots(directory, path) &&                  \
            fails("open", NEEDS_ROOM, 0))                                                        \
            return -1;                                                                           \
        return real call;                                                                        \
    } while (0)

int open(const char *path, int flags, ...) { OPENING(open, AT_FDCWD, (path, flags, mode)); }
int open64(const char *path, int flags, ...) { OPENING(open64, AT_FDCWD, (path, flags, mode)); }
int openat(int at, const char *path, int flags, ...) { OPENING(openat, at, (at, path, flags, mode)); }
int openat64(int at, const char *path, int flags, ...) { OPENING(openat64, at, (at, path, flags, mode)); }

/* --- names --- */

int mkdir(const char *path, mode_t mode) { BY_PATH(mkdir, NEEDS_ROOM, AT_FDCWD, path, (path, mode)); }
int mkdirat(int at, const char *path, mode_t mode) { BY_PATH(mkdirat, NEEDS_ROOM, at, path, (at, path, mode)); }
int rename(const char *from, const char *to) { BY_PATH(rename, NEEDS_ROOM, AT_FDCWD, to, (from, to)); }
int renameat(int a, const char *from, int b, const char *to) { BY_PATH(renameat, NEEDS_ROOM, b, to, (a, from, b, to)); }
int symlink(const char *target, const char *path) { BY_PATH(symlink, NEEDS_ROOM, AT_FDCWD, path, (target, path)); }
int symlinkat(const char *target, int at, const char *path) {
    BY_PATH(symlinkat, NEEDS_ROOM, at, path, (target, at, path));
}
int link(const char *from, const char *to) { BY_PATH(link, NEEDS_ROOM, AT_FDCWD, to, (from, to)); }
int unlink(const char *path) { BY_PATH(unlink, NEEDS_DISK, AT_FDCWD, path, (path)); }
int unlinkat(int at, const char *path, int flags) { BY_PATH(unlinkat, NEEDS_DISK, at, path, (at, path, flags)); }
int rmdir(const char *path) { BY_PATH(rmdir, NEEDS_DISK, AT_FDCWD, path, (path)); }
int chmod(const char *path, mode_t mode) { BY_PATH(chmod, NEEDS_DISK, AT_FDCWD, path, (path, mode)); }
int fchmodat(int at, const char *path, mode_t mode, int flags) {
    BY_PATH(fchmodat, NEEDS_DISK, at, path, (at, path, mode, flags));
}
int truncate(const char *path, off_t length) { BY_PATH(truncate, NEEDS_DISK, AT_FDCWD, path, (path, length)); }

/* --- the network --- */

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    REAL(connect);
    const char *none = getenv("FAULT_NO_NETWORK");
    if (none && *none == '1' && address && address->sa_family != AF_UNIX) {
        errno = ENETUNREACH;
        return -1;
    }
    return real(fd, address, length);
}
