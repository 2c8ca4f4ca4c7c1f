/* The one program of a sandbox: it keeps a network, tells what that has seen, and carries TCP
 * connections between it and the server that made the sandbox.
 *
 * It speaks frames over stdin and stdout: a header of two little-endian words, first the number of
 * a connection, then `value | kind << 24`; behind REPORT and DATA follow `value` bytes. See
 * frames.py for what they mean. At most WINDOW bytes of a connection are under way in each
 * direction: no connection holds up another, and memory is bounded. Where stdin ends, it ends, and
 * where another server takes over, that begins with RESET. There is nothing to free: all memory is
 * in `ends`.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum kind { REPORT = 1, CONNECT, LISTEN, OPENED, FAILED, ACCEPTED, DATA, TAKEN, END, CLOSE,
            RESET };
enum { WINDOW = 64 * 1024, PAYLOAD = 32 * 1024, MOST_ENDS = 128, BACKLOG = 128 };

/* Ids with this bit are ours to give, for what we accept; those without are the server's. */
#define ACCEPTED_ID (1u << 31)

struct header {
  uint32_t id;
  uint32_t word;
};

struct end {
  enum { FREE, LISTENING, CONNECTING, OPEN } state;
  int socket;
  uint32_t id;
  uint16_t port;        /* only while it listens */
  int in_ended;         /* the server sends no more */
  int out_ended;        /* the function sends no more */
  uint32_t credit;      /* how much the server still takes */
  uint32_t taken;       /* how much the function took, and the server does not know yet */
  uint32_t start, stop; /* where in `waiting` is what the function has not taken yet */
  char waiting[WINDOW];
};

/* For the compiler to keep: scripts/generate finds by it what the program was made of. */
__attribute__((used)) static const char source[] = "source:" SOURCE;

static struct end ends[MOST_ENDS];
static uint32_t last_accepted;
static struct {
  struct header header;
  char payload[PAYLOAD];
} frame;

/* -- frames ----------------------------------------------------------------------------------- */

static void read_all(char *into, size_t size) {
  while (size > 0) {
    ssize_t count = read(STDIN_FILENO, into, size);
    if (count <= 0) exit(count < 0);
    into += count;
    size -= count;
  }
}

/* Sends a frame with the first `size` bytes of `frame.payload`. */
static void send_frame(uint32_t id, enum kind kind, uint32_t value, size_t size) {
  const char *from = (const char *)&frame;
  frame.header.id = id;
  frame.header.word = value | (uint32_t)kind << 24;
  size += sizeof frame.header;
  while (size > 0) {
    ssize_t count = write(STDOUT_FILENO, from, size);
    if (count <= 0) exit(1);
    from += count;
    size -= count;
  }
}

static void send_word(uint32_t id, enum kind kind, uint32_t value) {
  send_frame(id, kind, value, 0);
}

/* -- what the network has seen ---------------------------------------------------------------- */

static const char *const REPORTED[] = {
    "/proc/sys/kernel/random/boot_id", "/proc/net/dev",     "/proc/net/snmp",
    "/proc/net/snmp6",                 "/proc/net/netstat", "/proc/net/unix",
    "/proc/net/ip6_flowlabel"};

/* Tells which network this is, then what the kernel counts and keeps for it; an empty frame ends
 * the report. */
static void report(void) {
  ssize_t size = readlink("/proc/self/ns/net", frame.payload, PAYLOAD - 1);
  if (size < 0) size = 0;
  frame.payload[size++] = '\n';
  send_frame(0, REPORT, size, size);
  for (size_t i = 0; i < sizeof REPORTED / sizeof *REPORTED; i++) {
    int file = open(REPORTED[i], O_RDONLY);
    if (file < 0) continue;
    while ((size = read(file, frame.payload, PAYLOAD)) > 0) send_frame(0, REPORT, size, size);
    close(file);
  }
  send_word(0, REPORT, 0);
}

/* -- ends of connections ---------------------------------------------------------------------- */

static struct end *find(uint32_t id) {
  for (struct end *end = ends; end < ends + MOST_ENDS; end++)
    if (end->state != FREE && end->id == id) return end;
  return NULL;
}

static struct end *find_free(void) {
  for (struct end *end = ends; end < ends + MOST_ENDS; end++)
    if (end->state == FREE) return end;
  return NULL;
}

static void take(struct end *end, uint32_t id, int socket) {
  int one = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  end->id = id;
  end->socket = socket;
  end->in_ended = end->out_ended = 0;
  end->credit = WINDOW;
  end->taken = end->start = end->stop = 0;
}

static void release(struct end *end) {
  close(end->socket);
  end->state = FREE;
}

static void release_all(void) {
  for (struct end *end = ends; end < ends + MOST_ENDS; end++)
    if (end->state != FREE) release(end);
}

static void lose(struct end *end) {
  send_word(end->id, CLOSE, errno);
  release(end);
}

/* Passes the server's end on once all that came before is written; both know when all is over. */
static void end_in(struct end *end) {
  if (!end->in_ended || end->start < end->stop) return;
  shutdown(end->socket, SHUT_WR);
  if (end->out_ended) release(end);
}

static void write_waiting(struct end *end) {
  ssize_t count =
      send(end->socket, end->waiting + end->start, end->stop - end->start, MSG_NOSIGNAL);
  if (count < 0) {
    if (errno != EAGAIN) lose(end);
    return;
  }
  end->start += count;
  end->taken += count;
  if (end->start == end->stop) end->start = end->stop = 0;
  if (end->taken >= WINDOW / 2) {
    send_word(end->id, TAKEN, end->taken);
    end->taken = 0;
  }
  end_in(end);
}

static void read_some(struct end *end) {
  size_t most = end->credit < PAYLOAD ? end->credit : PAYLOAD;
  ssize_t count = recv(end->socket, frame.payload, most, 0);
  if (count < 0) {
    if (errno != EAGAIN) lose(end);
  } else if (count > 0) {
    end->credit -= count;
    send_frame(end->id, DATA, count, count);
  } else {
    end->out_ended = 1;
    send_word(end->id, END, 0);
    if (end->in_ended && end->start == end->stop) release(end);
  }
}

/* -- opening ---------------------------------------------------------------------------------- */

static struct sockaddr_in loopback(uint16_t port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

/* Returns a free end with a socket; where there is none, the server is told why. */
static struct end *make(uint32_t id) {
  struct end *end = find_free();
  int made = end ? socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) : -1;
  if (made < 0) {
    send_word(id, FAILED, EMFILE);
    return NULL;
  }
  take(end, id, made);
  return end;
}

static void fail(struct end *end, int error) {
  send_word(end->id, FAILED, error);
  release(end);
}

static void open_connection(uint32_t id, uint16_t port) {
  struct sockaddr_in address = loopback(port);
  struct end *end = make(id);
  if (!end) return;
  end->state = CONNECTING;
  if (connect(end->socket, (struct sockaddr *)&address, sizeof address) == 0) {
    end->state = OPEN;
    send_word(id, OPENED, 0);
  } else if (errno != EINPROGRESS) {
    fail(end, errno);
  }
}

static void finish_connection(struct end *end) {
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(end->socket, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error) {
    fail(end, error);
  } else {
    end->state = OPEN;
    send_word(end->id, OPENED, 0);
  }
}

static void open_listener(uint32_t id, uint16_t port) {
  struct sockaddr_in address = loopback(port);
  struct end *end = make(id);
  int one = 1;
  if (!end) return;
  end->state = LISTENING;
  end->port = port;
  setsockopt(end->socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(end->socket, (struct sockaddr *)&address, sizeof address) < 0 ||
      listen(end->socket, BACKLOG) < 0)
    fail(end, errno);
  else
    send_word(id, OPENED, 0);
}

static void accept_one(struct end *listener) {
  struct end *end = find_free();
  int made = end ? accept4(listener->socket, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC) : -1;
  if (made < 0) return;
  last_accepted = (last_accepted + 1) | ACCEPTED_ID;
  take(end, last_accepted, made);
  end->state = OPEN;
  send_word(end->id, ACCEPTED, listener->port);
}

/* -- what comes from the server --------------------------------------------------------------- */

/* Keeps what is to be written, and writes what can be written at once. */
static void take_data(struct end *end, uint32_t size) {
  if (size > PAYLOAD) exit(1);
  if (!end || end->state != OPEN) { /* it was lost, and the server did not know yet */
    read_all(frame.payload, size);
    return;
  }
  if (end->stop + size > WINDOW) {
    memmove(end->waiting, end->waiting + end->start, end->stop - end->start);
    end->stop -= end->start;
    end->start = 0;
  }
  if (end->stop + size > WINDOW) exit(1);
  read_all(end->waiting + end->stop, size);
  end->stop += size;
  write_waiting(end);
}

static void take_frame(void) {
  struct header header;
  read_all((char *)&header, sizeof header);
  uint32_t value = header.word & 0xffffff;
  struct end *end = find(header.id);
  switch (header.word >> 24) {
    case REPORT:
      report();
      break;
    case CONNECT:
      open_connection(header.id, value);
      break;
    case LISTEN:
      open_listener(header.id, value);
      break;
    case DATA:
      take_data(end, value);
      break;
    case TAKEN:
      if (end) end->credit += value;
      break;
    case END:
      if (end) {
        end->in_ended = 1;
        end_in(end);
      }
      break;
    case CLOSE:
      if (end) release(end);
      break;
    case RESET:
      release_all();
      break;
    default:
      exit(1);
  }
}

/* -- the loop --------------------------------------------------------------------------------- */

static short events_of(const struct end *end) {
  switch (end->state) {
    case LISTENING:
      return find_free() ? POLLIN : 0;
    case CONNECTING:
      return POLLOUT;
    case OPEN:
      return (end->credit && !end->out_ended ? POLLIN : 0) |
             (end->start < end->stop ? POLLOUT : 0);
    default:
      return 0;
  }
}

static void serve(struct end *end, short events) {
  if (end->state == LISTENING) {
    accept_one(end);
  } else if (end->state == CONNECTING) {
    finish_connection(end);
  } else {
    if (events & POLLOUT) write_waiting(end);
    if (end->state == OPEN && events & POLLIN) read_some(end);
  }
}

int main(void) {
  for (;;) {
    struct pollfd polled[MOST_ENDS + 1];
    for (int i = 0; i < MOST_ENDS; i++) {
      short events = events_of(&ends[i]);
      /* One of which nothing is wanted is left out, or its errors would wake us for ever. */
      polled[i] = (struct pollfd){.fd = events ? ends[i].socket : -1, .events = events};
    }
    polled[MOST_ENDS] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(polled, MOST_ENDS + 1, -1) < 0) continue;
    for (int i = 0; i < MOST_ENDS; i++)
      if (polled[i].revents) serve(&ends[i], polled[i].events);
    if (polled[MOST_ENDS].revents) take_frame();
  }
}
