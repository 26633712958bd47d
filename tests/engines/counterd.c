// SPDX-License-Identifier: Apache-2.0 OR MIT
// What runs in the containers of tests/engines.
//   counterd PORT     answers each HTTP request with the number of requests before it
//   counterd lock     holds a flock and a POSIX lock on files in /tmp, for ever
//   counterd locked   tells whether somebody holds them
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX = 64 };

static int file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        err(1, "%s", path);
    return fd;
}

static int lock(int hold)
{
    int a = file("/tmp/flock"), b = file("/tmp/posix");
    struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    if (!hold) {
        int free = flock(a, LOCK_EX | LOCK_NB) == 0;
        fcntl(b, F_GETLK, &l);
        printf("flock %s posix %s\n", free ? "free" : "held", l.l_type == F_UNLCK ? "free" : "held");
        return 0;
    }
    if (flock(a, LOCK_EX) || fcntl(b, F_SETLK, &l))
        err(1, "lock");
    puts("locked");
    fflush(stdout);
    for (;;)
        pause();
}

static void answer(int fd, unsigned long n)
{
    char body[32], all[160];
    int len = snprintf(body, sizeof(body), "%lu\n", n);
    len = snprintf(all, sizeof(all), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len, body);
    if (write(fd, all, len) != len)
        warn("write");
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "8080";
    if (!strcmp(what, "lock") || !strcmp(what, "locked"))
        return lock(!strcmp(what, "lock"));
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(what)) };
    struct pollfd fds[MAX] = { { .fd = socket(AF_INET, SOCK_STREAM, 0), .events = POLLIN } };
    int n = 1, one = 1;
    setsockopt(fds[0].fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fds[0].fd, (void *)&at, sizeof(at)) || listen(fds[0].fd, 16))
        err(1, "port %s", what);
    for (unsigned long served = 0;;) {
        poll(fds, n, -1);
        for (int i = n - 1; i > 0; i--) {
            char request[4096];
            if (!fds[i].revents)
                continue;
            if (read(fds[i].fd, request, sizeof(request)) > 0) {
                answer(fds[i].fd, served);
                printf("served %lu\n", served++);
                fflush(stdout);
                continue;
            }
            close(fds[i].fd);
            fds[i] = fds[--n];
        }
        if (fds[0].revents && n < MAX) {
            int fd = accept(fds[0].fd, NULL, NULL);
            if (fd >= 0)
                fds[n++] = (struct pollfd){ .fd = fd, .events = POLLIN };
        }
    }
}
