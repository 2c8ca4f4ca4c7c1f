"""The one program of a sandbox, in machine code: it waits, and tells what its network has seen.

For each byte of stdin it writes the files of REPORTED to stdout, then a zero byte. It ends when
stdin does, so a sandbox never outlives the server that made it. Anything else that could answer
would need an image from somewhere; these few hundred bytes can be read here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

REPORTED = tuple(
    f"/proc/net/{name}" for name in ("dev", "snmp", "snmp6", "netstat", "unix", "ip6_flowlabel")
)
"""What the kernel counts and keeps for a network namespace: packets, errors, sockets, labels."""

END = b"\0"
"""Ends a report; what the kernel writes is text."""


def _code(listing: str) -> bytes:
    """Return the bytes of a listing; what stands after `;` explains them."""
    return b"".join(bytes.fromhex(line.partition(";")[0]) for line in listing.splitlines())


_X86_64 = _code("""
    4881ec00100000 ;  0         sub   rsp, 4096          ; a buffer
    31ff           ;  7  wait:  xor   edi, edi
    4889e6         ;  9         mov   rsi, rsp
    ba01000000     ;  c         mov   edx, 1
    31c0           ; 11         xor   eax, eax           ; read(0, buffer, 1)
    0f05           ; 13         syscall
    ffc8           ; 15         dec   eax
    7567           ; 17         jnz   exit               ; stdin has ended
    488d1d69000000 ; 19         lea   rbx, [rip + paths]
    803b00         ; 20  next:  cmp   byte [rbx], 0
    744b           ; 23         je    done
    4889df         ; 25         mov   rdi, rbx
    31f6           ; 28         xor   esi, esi
    b802000000     ; 2a         mov   eax, 2             ; open(path, O_RDONLY)
    0f05           ; 2f         syscall
    4989c4         ; 31         mov   r12, rax
    48ffc3         ; 34  skip:  inc   rbx                ; to the next path
    807bff00       ; 37         cmp   byte [rbx - 1], 0
    75f7           ; 3b         jne   skip
    4d85e4         ; 3d         test  r12, r12
    78de           ; 40         js    next               ; no such file
    4c89e7         ; 42  copy:  mov   rdi, r12
    4889e6         ; 45         mov   rsi, rsp
    ba00100000     ; 48         mov   edx, 4096
    31c0           ; 4d         xor   eax, eax           ; read(file, buffer, 4096)
    0f05           ; 4f         syscall
    4885c0         ; 51         test  rax, rax
    7e0e           ; 54         jle   close
    4889c2         ; 56         mov   rdx, rax
    bf01000000     ; 59         mov   edi, 1
    89f8           ; 5e         mov   eax, edi           ; write(1, buffer, length)
    0f05           ; 60         syscall
    ebde           ; 62         jmp   copy
    4c89e7         ; 64  close: mov   rdi, r12
    b803000000     ; 67         mov   eax, 3             ; close(file)
    0f05           ; 6c         syscall
    ebb0           ; 6e         jmp   next
    4889de         ; 70  done:  mov   rsi, rbx           ; the zero after all paths
    ba01000000     ; 73         mov   edx, 1
    89d7           ; 78         mov   edi, edx
    89d0           ; 7a         mov   eax, edx           ; write(1, zero, 1)
    0f05           ; 7c         syscall
    eb87           ; 7e         jmp   wait
    31ff           ; 80  exit:  xor   edi, edi
    b83c000000     ; 82         mov   eax, 60            ; exit(0)
    0f05           ; 87         syscall
                   ; 89  paths:
""")

_AARCH64 = _code("""
    ff0740d1 ;  0         sub   sp, sp, 4096       ; a buffer
    000080d2 ;  4  wait:  mov   x0, 0
    e1030091 ;  8         mov   x1, sp
    220080d2 ;  c         mov   x2, 1
    e80780d2 ; 10         mov   x8, 63             ; read(0, buffer, 1)
    010000d4 ; 14         svc   0
    1f0400f1 ; 18         cmp   x0, 1
    61040054 ; 1c         b.ne  exit               ; stdin has ended
    b3040010 ; 20         adr   x19, paths
    60024039 ; 24  next:  ldrb  w0, [x19]
    40030034 ; 28         cbz   w0, done
    600c8092 ; 2c         mov   x0, -100           ; AT_FDCWD
    e10313aa ; 30         mov   x1, x19
    020080d2 ; 34         mov   x2, 0
    080780d2 ; 38         mov   x8, 56             ; openat(AT_FDCWD, path, O_RDONLY)
    010000d4 ; 3c         svc   0
    f40300aa ; 40         mov   x20, x0
    60164038 ; 44  skip:  ldrb  w0, [x19], 1       ; to the next path
    e0ffff35 ; 48         cbnz  w0, skip
    d4feffb7 ; 4c         tbnz  x20, 63, next      ; no such file
    e00314aa ; 50  copy:  mov   x0, x20
    e1030091 ; 54         mov   x1, sp
    020082d2 ; 58         mov   x2, 4096
    e80780d2 ; 5c         mov   x8, 63             ; read(file, buffer, 4096)
    010000d4 ; 60         svc   0
    1f0000f1 ; 64         cmp   x0, 0
    cd000054 ; 68         b.le  close
    e20300aa ; 6c         mov   x2, x0
    200080d2 ; 70         mov   x0, 1
    080880d2 ; 74         mov   x8, 64             ; write(1, buffer, length)
    010000d4 ; 78         svc   0
    f5ffff17 ; 7c         b     copy
    e00314aa ; 80  close: mov   x0, x20
    280780d2 ; 84         mov   x8, 57             ; close(file)
    010000d4 ; 88         svc   0
    e6ffff17 ; 8c         b     next
    200080d2 ; 90  done:  mov   x0, 1
    e10313aa ; 94         mov   x1, x19            ; the zero after all paths
    220080d2 ; 98         mov   x2, 1
    080880d2 ; 9c         mov   x8, 64             ; write(1, zero, 1)
    010000d4 ; a0         svc   0
    d8ffff17 ; a4         b     wait
    000080d2 ; a8  exit:  mov   x0, 0
    a80b80d2 ; ac         mov   x8, 93             ; exit(0)
    010000d4 ; b0         svc   0
             ; b4  paths:
""")

_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_ADDRESS = 0x400000
_LARGEST_PAGE = 0x10000
_EXECUTABLE, _LOADED, _READ_EXECUTE = 2, 1, 5


def _elf(machine: int, code: bytes) -> bytes:
    """Return an executable of one segment: headers, code, and the paths that follow it."""
    paths = b"".join(path.encode() + b"\0" for path in REPORTED) + b"\0"
    headers = _FILE_HEADER.size + _PROGRAM_HEADER.size
    size = headers + len(code) + len(paths)
    identity = b"\x7fELF" + bytes([2, 1, 1])  # 64 bits, little-endian, version 1
    return b"".join(
        (
            _FILE_HEADER.pack(
                identity,
                _EXECUTABLE,
                machine,
                1,
                _ADDRESS + headers,  # where it begins
                _FILE_HEADER.size,  # the program header follows
                0,
                0,
                _FILE_HEADER.size,
                _PROGRAM_HEADER.size,
                *(1, 0, 0, 0),  # one segment, no sections
            ),
            _PROGRAM_HEADER.pack(
                _LOADED, _READ_EXECUTE, 0, _ADDRESS, _ADDRESS, size, size, _LARGEST_PAGE
            ),
            code,
            paths,
        )
    )


PROGRAMS: Mapping[str, bytes] = {"amd64": _elf(62, _X86_64), "arm64": _elf(183, _AARCH64)}
"""The program by the architecture of an engine, as engines call them."""
