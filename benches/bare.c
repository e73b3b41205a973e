/* The limit: what a bare loop in C needs for what a process manager does. Prints microseconds.
 *
 *   bare start N   fork and exec N sleeping processes, until all have come past exec
 *   bare stop N    the same, then time to signal and reap them all
 *   bare crash N   median from the kill of a process to the next one running, N times
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

/* Returns the read end of a close-on-exec pipe: end of file means that the program runs. */
static int spawn(pid_t *pid) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) exit(1);
    *pid = fork();
    if (*pid == 0) {
        setsid();
        execl("/bin/sleep", "sleep", "1000", (char *)0);
        _exit(127);
    }
    close(ends[1]);
    return ends[0];
}

static void wait_running(int end) {
    char byte;
    while (read(end, &byte, 1) < 0 && errno == EINTR) {}
    close(end);
}

static int ascending(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    int count = argc > 2 ? atoi(argv[2]) : 100;
    pid_t *pids = calloc(count, sizeof *pids);
    int *ends = calloc(count, sizeof *ends);
    long *times = calloc(count, sizeof *times);
    if (argc > 1 && strcmp(argv[1], "crash") == 0) {
        wait_running(spawn(&pids[0]));
        for (int i = 0; i < count; i++) {
            long began = now();
            kill(pids[0], SIGKILL);
            waitpid(pids[0], 0, 0);
            wait_running(spawn(&pids[0]));
            times[i] = now() - began;
        }
        kill(pids[0], SIGKILL);
        qsort(times, count, sizeof *times, ascending);
        printf("%ld\n", times[count / 2]);
        return 0;
    }
    long began = now();
    for (int i = 0; i < count; i++) ends[i] = spawn(&pids[i]);
    for (int i = 0; i < count; i++) wait_running(ends[i]);
    long started = now() - began;
    began = now();
    for (int i = 0; i < count; i++) kill(-pids[i], SIGINT);
    for (int i = 0; i < count; i++) waitpid(pids[i], 0, 0);
    long stopped = now() - began;
    printf("%ld\n", argc > 1 && strcmp(argv[1], "stop") == 0 ? stopped : started);
    return 0;
}
