"""Threads that share a kernel's loop: how many there may be, and how they come by their work."""

import ctypes
import functools
import os
import time

WORTH_A_START = 4 << 20
"""Bytes of work, read or written, for each thread that is started, which takes as long as 1 MB of work."""

WORTH_A_HAND = 1 << 19
"""Bytes for each thread that is there already."""

SHARING = """
namespace {

// The blocks of a call, done by several threads.
//
// Each thread has a share of the blocks and goes through it from the front, and then helps with those of
// others from the back. Of 10 blocks for two threads, the first begins at 0, 1, …, the second, once it is
// there, at 5, 6, …; the first, done with 0 to 4, goes on at 9, 8, …, until all are taken. So nobody waits
// for a thread that is yet to come: it may find nothing to do, and then touches nothing but this object.
struct _Work {
    struct Share { std::atomic<ptrdiff_t> taken{0}, from_back{0}; };  // how many of its blocks

    const void* const call;
    void (*const run)(const void* call, ptrdiff_t block);
    const ptrdiff_t blocks, threads;
    std::unique_ptr<Share[]> shares{new Share[threads]};
    std::atomic<ptrdiff_t> done{0};
    std::atomic<bool> failed{false};

    void help(ptrdiff_t self) {
        for (ptrdiff_t turn = 0; turn < threads; ++turn) {
            const ptrdiff_t k = (self + turn) % threads;
            const ptrdiff_t first = blocks * k / threads, last = blocks * (k + 1) / threads;
            Share& share = shares[k];
            for (ptrdiff_t b = first; share.taken < last - first && share.taken++ < last - first; ++b) {
                try {
                    run(call, turn ? last - 1 - share.from_back++ : b);
                } catch (...) {
                    failed = true;
                }
                ++done;
            }
        }
    }
};

struct _Pool;

// What a thread is handed; `run` comes first, so that the code of one kernel can run a job of another.
struct _Job {
    void (*run)(_Job*);
    std::shared_ptr<_Work> work;
    ptrdiff_t self;
    _Pool* pool;
};

void _run(_Job* job) {
    job->work->help(job->self);
    delete job;
}

// To start a thread takes as long as a loop over 100,000 elements. So one that has helped waits a little in
// a box for its next job, of whatever kernel: a pool of these is all that kernels share. In an empty box is
// null, in one where a thread waits _WAITING. Meanwhile it gives way to any other thread, such as BLAS's;
// and soon it ends, so that none is left when nothing is computed, nor (see below) when a process forks.
struct _Pool {
    const ptrdiff_t count;  // of boxes
    std::atomic<ptrdiff_t> closed, alive;  // whether threads are to end; and how many there are
    std::atomic<_Job*> boxes[1];
};

_Job* const _WAITING = reinterpret_cast<_Job*>(1);

// The next job of a thread; null where there is none.
_Job* _wait(_Pool* pool) {
    std::atomic<_Job*>* box = pool->boxes;
    for (_Job* empty = nullptr; !box->compare_exchange_strong(empty, _WAITING); empty = nullptr)
        if (++box == pool->boxes + pool->count) return nullptr;
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
    _Job* job;
    do {
        std::this_thread::yield();
        job = *box;
    } while (job == _WAITING && !pool->closed && std::chrono::steady_clock::now() < end);
    if (job == _WAITING && box->compare_exchange_strong(job, nullptr)) return nullptr;
    *box = nullptr;
    return job;
}

void* _serve(void* first) {
    _Job* job = static_cast<_Job*>(first);
    _Pool* const pool = job->pool;
    for (; job; job = _wait(pool)) job->run(job);
    --pool->alive;
    return nullptr;
}

// While there is one, threads are started that take no signals but those of their own faults: a program may
// block a signal in all the threads that it knows of.
struct _NoSignals {
#ifndef _WIN32
    sigset_t before;
    _NoSignals() {
        sigset_t all;
        sigfillset(&all);
        for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&all, fault);
        pthread_sigmask(SIG_SETMASK, &all, &before);
    }
    ~_NoSignals() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
#endif
};

// Start a thread; whether there was one to be had. It is detached from the first: `std::thread` detaches it
// when it may be over already, which some versions of glibc do not survive (its bug 19951).
bool _start(_Job* job) {
    const _NoSignals none;
    pthread_t thread;
    pthread_attr_t detached;
    if (pthread_attr_init(&detached)) return false;
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    _Pool* const pool = job->pool;
    ++pool->alive;
    const bool started = !pthread_create(&thread, &detached, _serve, job);
    if (!started) --pool->alive;
    pthread_attr_destroy(&detached);
    return started;
}

// Have threads help: those that wait, and as many new ones as may be started.
void _call_for_help(_Pool* pool, const std::shared_ptr<_Work>& work, ptrdiff_t starts) try {
    std::atomic<_Job*> *box = pool->boxes, *end = box + pool->count;
    if (pool->closed) return;
    for (ptrdiff_t self = 1; self < work->threads; ++self) {
        _Job* waiting = nullptr;
        for (; box < end && waiting != _WAITING; ++box) waiting = *box;
        if (waiting != _WAITING && self > starts) return;
        std::unique_ptr<_Job> job(new _Job{_run, work, self, pool});
        if (waiting == _WAITING && box[-1].compare_exchange_strong(waiting, job.get())) {
            job.release();
        } else if (self <= starts && _start(job.get())) {
            job.release();
        }
    }
} catch (...) {  // no memory: then without them
}

// Run each block, with the help of others. Raises bad_alloc where one could not be run.
void _together(
    const void* call, void (*run)(const void*, ptrdiff_t), ptrdiff_t blocks, ptrdiff_t threads,
    ptrdiff_t starts, _Pool* pool
) {
    std::shared_ptr<_Work> work;
    try {
        work.reset(new _Work{call, run, blocks, threads});
    } catch (...) {  // no memory to share
        for (ptrdiff_t b = 0; b < blocks; ++b) run(call, b);
        return;
    }
    _call_for_help(pool, work, starts);
    work->help(0);
    while (work->done < blocks) std::this_thread::yield();
    if (work->failed) throw std::bad_alloc();
}

}
"""


@functools.cache
def count() -> int:
    """How many threads a kernel may use: the cores of this process, or fewer by OMP_NUM_THREADS."""
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(limit))) if limit.isdecimal() else cores


_CLOSED, _ALIVE, _BOXES = 1, 2, 3  # where these are in a _Pool

_pools: list[ctypes.Array] = []  # none before the first kernel, and then one


def pool() -> int:
    """The address of this process's `_Pool`."""
    if not _pools:
        boxes = max(1, count() - 1)
        made = (ctypes.c_ssize_t * (_BOXES + boxes))(boxes)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))  # at the end of the process threads may look at it
        _pools.append(made)
    return ctypes.addressof(_pools[0])


def _close() -> None:
    """Before a fork: have all threads end, since the new process will not have them."""
    late = time.monotonic() + 1
    for its in _pools:
        its[_CLOSED] = 1
        while its[_ALIVE] and time.monotonic() < late:
            time.sleep(1e-5)


def _open() -> None:
    """After it."""
    for its in _pools:
        its[_CLOSED] = 0


def _begin() -> None:
    """After it, in the new process: of threads that were too late it must not wait for any."""
    for its in _pools:
        its[_CLOSED:] = [0] * (len(its) - _CLOSED)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close, after_in_parent=_open, after_in_child=_begin)
