/* How does a server answer requests that arrive on a clock of their own?
 *
 * An open-loop generator for HTTP/1.1: one thread, epoll, many kept connections to 127.0.0.1 (never to
 * anywhere else). Each request goes out at its scheduled time, whether or not earlier ones were answered;
 * when every connection is busy another is opened, up to a limit, and beyond it the request waits, its
 * latency being counted from the scheduled time all the same. It knows no schedule, protocol or statistics:
 * openloop.py writes the plan, with whole requests as bytes, and reads the record.
 *
 *     openloop PORT PLAN RECORD REPLIES CONNECTIONS OPEN_AT_START TIMEOUT_S KEEP_EVERY
 *
 * PLAN     u64 kinds, u64 requests; each kind: u64 length, its bytes; each request: f64 seconds, u64 kind
 * RECORD   each request: f64 sent, f64 done (seconds from the start, NaN = never), i64 status, u64 body
 *          bytes, u64 1 if it waited for a connection. Status: HTTP's, or one of the negative ones below
 * REPLIES  every KEEP_EVERY-th answered request: u64 index, u64 length of head, u64 length of body, bytes
 *
 * Prints one line: seconds, CPU seconds, connections opened. Exits with 1 for a wrong call or plan, 2 if it
 * cannot connect at all, 3 if the system refuses memory, descriptors or files.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { UNSENT = 0, TIMED_OUT = -1, LOST = -2, UNREADABLE = -3 };
enum { CLOSED, IDLE, CONNECTING, BUSY };
#define MOST_REQUESTS 10000000u
#define LARGEST_REPLY (16u << 20)
#define MOST_KEPT (64u << 20)

typedef struct { uint64_t length; char *bytes; } Kind;
typedef struct { double at; uint64_t kind; } Planned;
typedef struct { double sent, done; int64_t status; uint64_t bytes, waited; } Record;
typedef struct Connection {
    int fd, state;
    uint64_t request;          /* in flight, unless idle */
    size_t written, got, room; /* of the request; of the reply */
    char *reply;
    struct Connection *before, *after; /* among those in flight, in the order of their sending */
} Connection;

static Kind *kinds;
static Planned *plan;
static Record *record;
static uint64_t kind_count, count, answered, settled, next, opened, kept;
static Connection *connections, **idle, *oldest, *latest;
static int limit, idle_count, made, poller, timer, keep_every;
static double start, timeout;
static struct sockaddr_in server;
static FILE *replies;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9 - start;
}

static void die(int code, const char *what) {
    fprintf(stderr, "openloop: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(code);
}

static void *room(size_t members, size_t size) {
    void *memory = calloc(members ? members : 1, size);
    if (!memory) die(3, "no memory");
    return memory;
}

/* In flight -> not. */
static void unlink_(Connection *c) {
    if (c->before) c->before->after = c->after; else oldest = c->after;
    if (c->after) c->after->before = c->before; else latest = c->before;
    c->before = c->after = NULL;
}

static void close_(Connection *c) {
    if (c->state == CLOSED) return;
    if (c->state == IDLE) {
        int i = 0;
        while (idle[i] != c) i++;
        memmove(idle + i, idle + i + 1, (size_t)(--idle_count - i) * sizeof *idle);
    }
    close(c->fd);
    c->state = CLOSED;
}

static void settle(Connection *c, int64_t status, int keeps) {
    Record *r = record + c->request;
    r->status = status;
    if (status > 0) r->done = now();
    settled++;
    unlink_(c);
    if (keeps) {
        c->state = IDLE;
        idle[idle_count++] = c;
    } else {
        c->state = BUSY; /* not in the idle list */
        close_(c);
    }
}

/* A new connection, on its way; NULL when there are as many as may be. */
static Connection *open_(void) {
    Connection *c = NULL;
    if (made < limit) c = connections + made++;
    else for (int i = 0; i < limit && !c; i++) if (connections[i].state == CLOSED) c = connections + i;
    if (!c) return NULL;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die(3, "socket");
    int yes = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    c->state = CONNECTING;
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) {
        close(c->fd);
        c->state = CLOSED;
        return NULL;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) die(3, "epoll_ctl");
    opened++;
    return c;
}

static void lose(Connection *c) {
    if (c->state == IDLE) close_(c);
    else if (c->state != CLOSED) settle(c, LOST, 0);
}

static void write_(Connection *c) {
    Kind *kind = kinds + plan[c->request].kind;
    while (c->written < kind->length) {
        ssize_t n = send(c->fd, kind->bytes + c->written, kind->length - c->written, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return; /* EPOLLOUT tells when */
        if (n < 0) { lose(c); return; }
        c->written += (size_t)n;
    }
}

static void begin(Connection *c, uint64_t request, double at) {
    c->request = request;
    c->written = c->got = 0;
    c->before = latest;
    c->after = NULL;
    if (latest) latest->after = c; else oldest = c;
    latest = c;
    record[request].sent = at;
    if (c->state != CONNECTING) {
        c->state = BUSY;
        write_(c);
    }
}

/* The value of a header in a head that ends at `end`, or NULL. */
static const char *header(const char *head, const char *end, const char *name) {
    size_t length = strlen(name);
    for (const char *line = head; line && line < end; line = memmem(line, (size_t)(end - line), "\r\n", 2)) {
        if (*line == '\r') line += 2;
        if ((size_t)(end - line) > length && !strncasecmp(line, name, length) && line[length] == ':') {
            for (line += length + 1; *line == ' '; line++) ;
            return line;
        }
    }
    return NULL;
}

/* Bytes of a chunked body that begins here; 0 = not yet whole, -1 = nonsense. */
static long chunked(const char *body, const char *end) {
    const char *at = body;
    for (;;) {
        const char *line = memmem(at, (size_t)(end - at), "\r\n", 2);
        if (!line) return 0;
        char *digits;
        unsigned long size = strtoul(at, &digits, 16);
        if (digits == at || size > LARGEST_REPLY) return -1;
        if ((size_t)(end - line) < size + 4) return 0;
        at = line + 2 + size + 2;
        if (!size) return at - body;
    }
}

/* Looks at what has come of a reply; settles the request once it is whole. */
static void parse(Connection *c) {
    char *end = c->reply + c->got;
    char *blank = memmem(c->reply, c->got, "\r\n\r\n", 4);
    if (!blank) return;
    char *body = blank + 4;
    if (c->got < 12 || strncmp(c->reply, "HTTP/1.", 7)) { settle(c, UNREADABLE, 0); return; }
    int status = atoi(c->reply + 9);
    const char *length = header(c->reply, blank + 2, "content-length");
    const char *coding = header(c->reply, blank + 2, "transfer-encoding");
    const char *ending = header(c->reply, blank + 2, "connection");
    long size = -1;
    if (coding && !strncasecmp(coding, "chunked", 7)) {
        size = chunked(body, end);
        if (!size) return;
    } else if (length) {
        size = strtol(length, NULL, 10);
    } else if (status == 204) {
        size = 0;
    }
    if (status < 200 || status > 599 || size < 0 || (size_t)size > LARGEST_REPLY) {
        settle(c, UNREADABLE, 0);
        return;
    }
    if (end - body < size) return;
    record[c->request].bytes = (uint64_t)size;
    if (answered++ % (uint64_t)keep_every == 0 && kept + c->got < MOST_KEPT) {
        uint64_t about[3] = {c->request, (uint64_t)(body - c->reply), (uint64_t)size};
        fwrite(about, sizeof about, 1, replies);
        fwrite(c->reply, 1, (size_t)(body - c->reply) + (size_t)size, replies);
        kept += c->got;
    }
    int closes = (ending && !strncasecmp(ending, "close", 5)) || c->written < kinds[plan[c->request].kind].length;
    settle(c, status, !closes);
}

static void read_(Connection *c) {
    for (;;) {
        if (c->room - c->got < 4096) {
            if (c->room >= LARGEST_REPLY) { settle(c, UNREADABLE, 0); return; }
            c->room = c->room ? c->room * 2 : 8192;
            c->reply = realloc(c->reply, c->room);
            if (!c->reply) die(3, "no memory");
        }
        ssize_t n = recv(c->fd, c->reply + c->got, c->room - c->got, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) { lose(c); return; }
        if (c->state == IDLE) { close_(c); return; } /* bytes that nobody asked for */
        c->got += (size_t)n;
        parse(c);
        if (c->state == CLOSED) return;
    }
}

/* Sends what is due and gives up what is too late; returns when to look again. */
static double advance(void) {
    double time = now();
    while (oldest && plan[oldest->request].at + timeout <= time) settle(oldest, TIMED_OUT, 0);
    while (next < count && plan[next].at <= time) {
        Connection *c = idle_count ? idle[--idle_count] : open_();
        if (!c) {
            record[next].waited = 1;
            if (plan[next].at + timeout > time) break; /* a connection may yet be free */
            settled++;                                 /* stays UNSENT */
        } else {
            begin(c, next, time);
        }
        next++;
        time = now();
    }
    double at = 1e18;
    if (next < count) at = plan[next].at > time ? plan[next].at : plan[next].at + timeout;
    if (oldest && plan[oldest->request].at + timeout < at) at = plan[oldest->request].at + timeout;
    return at;
}

static void read_plan(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(1, path);
    uint64_t heads[2];
    if (fread(heads, sizeof heads, 1, file) != 1 || !heads[0] || heads[0] > 4096 || heads[1] > MOST_REQUESTS)
        die(1, "the plan's head is wrong");
    kind_count = heads[0];
    count = heads[1];
    kinds = room(kind_count, sizeof *kinds);
    for (uint64_t i = 0; i < kind_count; i++) {
        if (fread(&kinds[i].length, 8, 1, file) != 1 || !kinds[i].length || kinds[i].length > LARGEST_REPLY)
            die(1, "the plan's requests are wrong");
        kinds[i].bytes = room(kinds[i].length, 1);
        if (fread(kinds[i].bytes, kinds[i].length, 1, file) != 1) die(1, "the plan is cut short");
    }
    plan = room(count, sizeof *plan);
    if (fread(plan, sizeof *plan, count, file) != count) die(1, "the plan is cut short");
    for (uint64_t i = 0; i < count; i++)
        if (plan[i].kind >= kind_count || !(plan[i].at >= (i ? plan[i - 1].at : 0)) || plan[i].at > 86400)
            die(1, "the plan's times must ascend, within a day, and name known kinds");
    fclose(file);
}

static void handle(struct epoll_event *event) {
    Connection *c = event->data.ptr;
    if (c->state == CLOSED) return;
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) { lose(c); return; }
        if (!(event->events & EPOLLOUT)) return;
        c->state = BUSY;
        write_(c);
    } else if (c->state == BUSY && event->events & EPOLLOUT && c->written < kinds[plan[c->request].kind].length) {
        write_(c);
    }
    if (c->state != CLOSED && event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_(c);
}

/* Connections that are up before the clock starts, so that none of their cost is measured. */
static void open_first(int wanted) {
    for (int i = 0; i < wanted; i++) {
        Connection *c = open_();
        int error = c ? 0 : errno;
        socklen_t size = sizeof error;
        struct epoll_event event;
        if (c && epoll_wait(poller, &event, 1, 2000) < 1) error = ETIMEDOUT;
        if (c && !error) getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) { errno = error; die(2, "cannot connect"); }
        c->state = IDLE;
        idle[idle_count++] = c;
    }
}

int main(int argc, char **argv) {
    errno = 0;
    if (argc != 9) die(1, "PORT PLAN RECORD REPLIES CONNECTIONS OPEN_AT_START TIMEOUT_S KEEP_EVERY");
    int port = atoi(argv[1]), first = atoi(argv[6]);
    limit = atoi(argv[5]);
    timeout = atof(argv[7]);
    keep_every = atoi(argv[8]);
    if (port < 1 || port > 65535 || limit < 1 || limit > 20000 || first < 0 || first > limit || keep_every < 1
        || !(timeout > 0 && timeout <= 600))
        die(1, "an argument is out of range");
    read_plan(argv[2]);
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct rlimit files = {(rlim_t)limit + 64, (rlim_t)limit + 64}, had;
    getrlimit(RLIMIT_NOFILE, &had);
    if (had.rlim_cur < files.rlim_cur) {
        files.rlim_max = had.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files)) die(3, "so many connections are not allowed (ulimit -n)");
    }
    record = room(count, sizeof *record);
    for (uint64_t i = 0; i < count; i++) record[i].sent = record[i].done = NAN;
    connections = room((size_t)limit, sizeof *connections);
    idle = room((size_t)limit, sizeof *idle);
    replies = fopen(argv[4], "wb");
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (!replies || poller < 0 || timer < 0) die(3, "cannot start");
    open_first(first);
    struct epoll_event events[256] = {{.events = EPOLLIN, .data.ptr = NULL}};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, timer, events)) die(3, "epoll_ctl");
    start = now() + 0.02;

    while (settled < count) {
        double at = advance() + start;
        if (settled >= count) break;
        struct itimerspec when = {.it_value = {(time_t)at, (long)((at - floor(at)) * 1e9) + 1}};
        if (when.it_value.tv_nsec > 999999999) when.it_value.tv_nsec = 999999999;
        if (at < 1e17) timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
        int n = epoll_wait(poller, events, 256, 1000);
        if (n < 0 && errno != EINTR) die(3, "epoll_wait");
        for (int i = 0; i < n; i++) {
            uint64_t ticks;
            if (events[i].data.ptr) handle(events + i);
            else if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) die(3, "timer");
        }
    }
    FILE *file = fopen(argv[3], "wb");
    if (!file || fwrite(record, sizeof *record, count, file) != count || fclose(file) || fclose(replies))
        die(3, argv[3]);
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("%.6f %.6f %llu\n", now(),
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6,
           (unsigned long long)opened);
    return 0;
}
