/* Memory that runs out when it is told to: the n-th request of a thread fails. Loaded before the C library. */

#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static __thread long seen, target;
static __thread size_t least;
static __thread int watching;

static int fails(size_t size) {
    if (!watching || size < least || ++seen != target) return 0;
    errno = ENOMEM;
    return 1;
}

/* From now on requests of this thread for so many bytes or more are counted; the n-th fails, if n is not 0. */
void fail_at(long n, size_t bytes) { seen = 0, target = n, least = bytes, watching = 1; }

void fail_no_more(void) { watching = 0; }

/* How many were counted. */
long requests(void) { return seen; }

void *malloc(size_t size) { return fails(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return fails(n * size) ? NULL : __libc_calloc(n, size); }
void *realloc(void *at, size_t size) { return fails(size) ? NULL : __libc_realloc(at, size); }
void *memalign(size_t to, size_t size) { return fails(size) ? NULL : __libc_memalign(to, size); }
void *aligned_alloc(size_t to, size_t size) { return memalign(to, size); }

int posix_memalign(void **at, size_t to, size_t size) {
    void *found = memalign(to, size);
    if (!found) return ENOMEM;
    *at = found;
    return 0;
}
