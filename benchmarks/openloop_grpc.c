/* How does a server answer gRPC calls that arrive on a clock of their own?
 *
 * The open-loop generator of openloop.c for unary gRPC over HTTP/2: one thread, epoll, connections to
 * 127.0.0.1 (never to anywhere else) that are opened before the clock starts. Each call goes out at its scheduled time on
 * the next connection that has a stream left, else as soon as one has: its headers at once, its message as the
 * server's windows allow, in whole frames. An answer with a message counts as 200, one of trailers alone as 503.
 *
 *     openloop_grpc PORT PLAN RECORD REPLIES CALLS CONNECTIONS TIMEOUT_S KEEP_EVERY
 *
 * CALLS is the most in flight, on all connections. PLAN, RECORD and the printed line are those of
 * openloop.c; a kind's bytes are HEADERS and DATA frames, with a stream of 0. REPLIES stays empty.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { TIMED_OUT = -1, LOST = -2 };
enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, WINDOW_UPDATE = 8 };
enum { HEAD = 9, END_STREAM = 1, ACK = 1, INITIAL_WINDOW = 4 };
#define MOST_REQUESTS 10000000u

typedef struct { uint64_t length; char *bytes; } Kind;
typedef struct { double at; uint64_t kind; } Planned;
typedef struct { double sent, done; int64_t status; uint64_t bytes, waited; } Record;
typedef struct { char *bytes; size_t length, room, at; } Buffer;
typedef struct { uint64_t request; size_t at; int64_t window; int is_over; } Stream;
typedef struct {
    int fd, open, is_dead;
    Buffer in, out;
    Stream *streams;   /* by half of the stream's number */
    uint32_t *waiting; /* those with unsent frames, in order */
    uint32_t count, waits, room;
    int64_t window, initial;
} Connection;

static const char PREFACE[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    "\0\0\6\4\0\0\0\0\0\0\4\x7f\xff\xff\xff"          /* SETTINGS: INITIAL_WINDOW_SIZE */
    "\0\0\4\x8\0\0\0\0\0\x7f\xff\0\0";                /* WINDOW_UPDATE */
static Kind *kinds;
static Planned *plan;
static Record *record;
static uint64_t kind_count, count, settled, next;
static Connection *connections;
static int made, most, turn, poller, timer;
static double start;

static void die(int code, const char *what) {
    fprintf(stderr, "openloop_grpc: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(code);
}

static double clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void) { return clock_now() - start; }

static void *more(void *memory, size_t size) {
    memory = realloc(memory, size ? size : 1);
    if (!memory) die(3, "out of memory");
    return memory;
}

static void read_all(FILE *file, void *into, size_t size) {
    if (size && fread(into, size, 1, file) != 1) die(1, "the plan is too short");
}

static void read_plan(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(1, path);
    read_all(file, &kind_count, 8);
    read_all(file, &count, 8);
    if (kind_count < 1 || kind_count > 100000 || count > MOST_REQUESTS) die(1, "not a plan");
    kinds = more(NULL, kind_count * sizeof *kinds);
    for (uint64_t i = 0; i < kind_count; i++) {
        read_all(file, &kinds[i].length, 8);
        kinds[i].bytes = more(NULL, kinds[i].length);
        read_all(file, kinds[i].bytes, kinds[i].length);
    }
    plan = more(NULL, count * sizeof *plan);
    read_all(file, plan, count * sizeof *plan);
    fclose(file);
    for (uint64_t i = 0; i < count; i++)
        if (plan[i].kind >= kind_count) die(1, "no such kind");
}

static void append(Buffer *b, const char *bytes, size_t length) {
    if (b->length + length > b->room) b->bytes = more(b->bytes, b->room = 2 * (b->length + length));
    memcpy(b->bytes + b->length, bytes, length);
    b->length += length;
}

static void settle(uint64_t request, int64_t status) {
    Record *r = &record[request];
    if (!isnan(r->done) || r->status) return;
    r->status = status;
    if (status > 0) r->done = now();
    settled++;
}

static void lose(Connection *c) {
    c->is_dead = 1;
    close(c->fd);
    for (uint32_t i = 0; i < c->count; i++) settle(c->streams[i].request, LOST);
}

static void flush(Connection *c) {
    while (!c->is_dead && c->out.at < c->out.length) {
        ssize_t n = send(c->fd, c->out.bytes + c->out.at, c->out.length - c->out.at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
        if (n < 0) { lose(c); return; }
        c->out.at += (size_t)n;
    }
    if (c->out.at == c->out.length) c->out.at = c->out.length = 0;
    struct epoll_event event = {.events = EPOLLIN | (c->out.length ? EPOLLOUT : 0), .data.ptr = c};
    if (!c->is_dead) epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static uint32_t number(const char *p) {
    const unsigned char *u = (const unsigned char *)p;
    return (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 | (uint32_t)u[2] << 8 | u[3];
}

/* Append the frame of a stream's call that is next. */
static void append_frame(Connection *c, uint32_t index) {
    Stream *s = &c->streams[index];
    const char *frame = kinds[plan[s->request].kind].bytes + s->at;
    size_t size = HEAD + (number(frame) >> 8);
    uint32_t id = htonl(2 * index + 1);
    append(&c->out, frame, size);
    memcpy(c->out.bytes + c->out.length - size + 5, &id, 4);
    s->at += size;
}

/* Send what the windows allow. */
static void send_data(Connection *c) {
    uint32_t left = 0;
    for (uint32_t i = 0; i < c->waits; i++) {
        Stream *s = &c->streams[c->waiting[i]];
        Kind *kind = &kinds[plan[s->request].kind];
        while (!s->is_over && s->at < kind->length) {
            int64_t size = number(kind->bytes + s->at) >> 8;
            if (size > s->window || size > c->window) break;
            s->window -= size;
            c->window -= size;
            append_frame(c, c->waiting[i]);
        }
        if (!s->is_over && s->at < kind->length) c->waiting[left++] = c->waiting[i];
    }
    c->waits = left;
}

static void call(Connection *c, uint64_t request) {
    Kind *kind = &kinds[plan[request].kind];
    if (c->count == c->room) {
        c->room = 2 * c->room + 64;
        c->streams = more(c->streams, c->room * sizeof *c->streams);
        c->waiting = more(c->waiting, c->room * sizeof *c->waiting);
    }
    uint32_t index = c->count++;
    c->streams[index] = (Stream){request, 0, c->initial, 0};
    while (c->streams[index].at < kind->length && kind->bytes[c->streams[index].at + 3] != DATA)
        append_frame(c, index);
    c->waiting[c->waits++] = index;
    send_data(c);
    c->open++;
    record[request].sent = now();
    record[request].waited = record[request].sent - plan[request].at > 1e-3;
}

static void set(Connection *c, const char *p, const char *end) {
    for (; p < end; p += 6)
        if (p[0] == 0 && p[1] == INITIAL_WINDOW) {
            int64_t change = (int64_t)number(p + 2) - c->initial;
            c->initial += change;
            for (uint32_t i = 0; i < c->waits; i++) c->streams[c->waiting[i]].window += change;
        }
}

static void parse(Connection *c) {
    char *p = c->in.bytes, *end = p + c->in.length;
    while (end - p >= HEAD) {
        size_t length = number(p) >> 8;
        if ((size_t)(end - p) < HEAD + length) break;
        int type = p[3], flags = p[4];
        uint32_t id = number(p + 5) & 0x7fffffff, index = id >> 1;
        if (type == SETTINGS && !(flags & ACK)) {
            set(c, p + HEAD, p + HEAD + length);
            append(&c->out, "\0\0\0\4\1\0\0\0\0", HEAD);
        }
        if (type == WINDOW_UPDATE && !id) c->window += number(p + HEAD);
        if (type == WINDOW_UPDATE && id && index < c->count) c->streams[index].window += number(p + HEAD);
        if (type == PING && !(flags & ACK)) {
            append(&c->out, "\0\0\x8\6\1\0\0\0\0", HEAD);
            append(&c->out, p + HEAD, length);
        }
        if (id && index < c->count && (type == DATA || type == HEADERS || type == RST_STREAM)) {
            uint64_t request = c->streams[index].request;
            Record *r = &record[request];
            if (type == DATA) r->bytes += length;
            if ((type != RST_STREAM && flags & END_STREAM) || (type == RST_STREAM && isnan(r->done))) {
                c->open--;
                c->streams[index].is_over = 1;
                settle(request, type == RST_STREAM ? LOST : r->bytes ? 200 : 503);
            }
        }
        p += HEAD + length;
    }
    memmove(c->in.bytes, p, c->in.length = (size_t)(end - p));
}

static void receive(Connection *c) {
    for (;;) {
        if (c->in.room - c->in.length < 1 << 16) c->in.bytes = more(c->in.bytes, c->in.room += 1 << 17);
        size_t room = c->in.room - c->in.length;
        ssize_t n = recv(c->fd, c->in.bytes + c->in.length, room, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) { lose(c); return; }
        c->in.length += (size_t)n;
        parse(c);
        if ((size_t)n < room) return;
    }
}

static void open_all(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connections = calloc((size_t)made, sizeof *connections);
    for (int i = 0; i < made; i++) {
        Connection *c = &connections[i];
        int one = 1;
        c->window = c->initial = 65535;
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0) die(3, "socket");
        if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) die(2, "cannot connect");
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
        append(&c->out, PREFACE, sizeof PREFACE - 1);
        flush(c);
    }
}

static void send_due(void) {
    while (next < count && plan[next].at <= now()) {
        Connection *c = NULL;
        for (int tried = 0; tried < made && !c; tried++, turn = (turn + 1) % made)
            if (!connections[turn].is_dead && connections[turn].open < most) c = &connections[turn];
        if (!c) return;
        call(c, next++);
        flush(c);
    }
}

int main(int argc, char **argv) {
    if (argc != 9) die(1, "8 arguments are needed");
    made = atoi(argv[6]);
    if (made < 1) die(1, "at least one connection is needed");
    most = atoi(argv[5]) / made;
    most = most < 1 ? 1 : most;
    double timeout = atof(argv[7]);
    read_plan(argv[2]);
    record = more(NULL, count * sizeof *record);
    for (uint64_t i = 0; i < count; i++) record[i] = (Record){NAN, NAN, 0, 0, 0};
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event events[256], event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    open_all(atoi(argv[1]));
    start = clock_now() + 0.05;
    double end = count ? plan[count - 1].at + timeout : 0;
    while (settled < count && now() < end) {
        send_due();
        double at = start + (next < count && plan[next].at > now() ? plan[next].at : now() + 1e-3);
        struct itimerspec when = {.it_value = {(time_t)at, (long)((at - floor(at)) * 1e9)}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
        int n = epoll_wait(poller, events, 256, 1000);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            uint64_t ticks;
            if (!c) { (void)!read(timer, &ticks, sizeof ticks); continue; }
            if (c->is_dead) continue;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
            if (!c->is_dead) send_data(c);
            if (!c->is_dead && c->out.length) flush(c);
        }
    }
    for (uint64_t i = 0; i < next; i++) settle(i, TIMED_OUT);
    FILE *file = fopen(argv[3], "wb"), *replies = fopen(argv[4], "wb");
    if (!file || fwrite(record, sizeof *record, count, file) != count || fclose(file)) die(3, argv[3]);
    if (!replies || fclose(replies)) die(3, argv[4]);
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("%.6f %.6f %d\n", now(), (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
           + 1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec), made);
    return 0;
}
