// Ten freestanding kernels. One flat image of them runs natively, under x86-dbt and under QEMU.
#include <stdint.h>

typedef uint64_t (*kernel)(uint64_t);

static uint64_t integers(uint64_t n) {
    uint64_t a = 1, b = 0x9e3779b97f4a7c15;
    for (uint64_t i = 0; i < n; i++) {
        a ^= a << 13;
        a ^= a >> 7;
        a ^= a << 17;
        b = b * 0x5851f42d4c957f2d + (a >> 11);
        b = (b << 31 | b >> 33) ^ i;
    }
    return a + b;
}

static uint8_t composite[1 << 18];
static uint64_t sieve(uint64_t n) {
    uint64_t primes = 0;
    for (uint64_t turn = 0; turn < n; turn++) {
        for (uint32_t i = 0; i < sizeof composite; i++) composite[i] = 0;
        primes = 0;
        for (uint32_t i = 2; i < sizeof composite; i++) {
            if (composite[i]) continue;
            primes++;
            for (uint32_t j = 2 * i; j < sizeof composite; j += i) composite[j] = 1;
        }
    }
    return primes;
}

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
#define ROR(x, n) ((x) >> (n) | (x) << (32 - (n)))
static uint32_t digest[8];
static uint64_t sha256(uint64_t n) {
    uint32_t w[64];
    for (uint64_t turn = 0; turn < n; turn++) {
        for (int i = 0; i < 16; i++) w[i] = digest[i & 7] + i + (uint32_t)turn;
        for (int i = 16; i < 64; i++) {
            uint32_t s0 = ROR(w[i - 15], 7) ^ ROR(w[i - 15], 18) ^ w[i - 15] >> 3;
            uint32_t s1 = ROR(w[i - 2], 17) ^ ROR(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        uint32_t v[8];
        for (int i = 0; i < 8; i++) v[i] = digest[i];
        for (int i = 0; i < 64; i++) {
            uint32_t s1 = ROR(v[4], 6) ^ ROR(v[4], 11) ^ ROR(v[4], 25);
            uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + K[i] + w[i];
            uint32_t s0 = ROR(v[0], 2) ^ ROR(v[0], 13) ^ ROR(v[0], 22);
            uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            v[7] = v[6], v[6] = v[5], v[5] = v[4], v[4] = v[3] + t1;
            v[3] = v[2], v[2] = v[1], v[1] = v[0], v[0] = t1 + t2;
        }
        for (int i = 0; i < 8; i++) digest[i] += v[i];
    }
    return digest[0] ^ (uint64_t)digest[7] << 32;
}

typedef double pair __attribute__((vector_size(16)));
static double a[64][64] __attribute__((aligned(16))), b[64][64] __attribute__((aligned(16))),
    c[64][64] __attribute__((aligned(16)));
static uint64_t matmul(uint64_t n) {
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++) a[i][j] = i + j * 0.5, b[i][j] = i * 0.25 - j;
    for (uint64_t turn = 0; turn < n; turn++)
        for (int i = 0; i < 64; i++)
            for (int j = 0; j < 64; j += 2) {
                pair sum = {0, 0};
                for (int k = 0; k < 64; k++) {
                    pair x = {a[i][k], a[i][k]};
                    sum += x * *(pair *)&b[k][j];
                }
                *(pair *)&c[i][j] = sum;
            }
    return (uint64_t)(int64_t)c[63][62] + (uint64_t)(int64_t)c[5][8];
}

static uint64_t threaded(uint64_t n) {
    static const uint8_t program[] = {0, 1, 2, 3, 1, 0, 4, 2, 3, 1, 4, 0, 2, 1, 3, 5};
    static void *const labels[] = {&&add, &&xor, &&shift, &&multiply, &&swap, &&end};
    uint64_t x = 1, y = 3;
    const uint8_t *pc = program;
#define NEXT goto *labels[*pc++]
    NEXT;
add: x += y; NEXT;
xor: y ^= x; NEXT;
shift: x = x << 3 | x >> 61; NEXT;
multiply: y *= 5; NEXT;
swap: { uint64_t t = x; x = y; y = t; } NEXT;
end:
    if (n-- == 0) return x ^ y;
    pc = program;
    NEXT;
}

__attribute__((noinline, optimize("no-optimize-sibling-calls", "no-inline"))) static uint64_t fib(uint64_t n) {
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}
static uint64_t calls(uint64_t n) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) sum += fib(15);
    return sum;
}

static uint32_t links[1 << 14];
static uint64_t chase(uint64_t n) {
    uint32_t size = sizeof links / sizeof *links;
    for (uint32_t i = 0; i < size; i++) links[i] = (i * 5 + 4097) & (size - 1);
    uint32_t at = 0;
    for (uint64_t i = 0; i < n; i++) at = links[at];
    return at;
}

static uint64_t x87(uint64_t n) {
    volatile long double start = 1.5L;
    long double x = start, y = 0;
    for (uint64_t i = 0; i < n; i++) {
        x = x * 0.999999L + 0.25L;
        y = y + x / 3.0L;
    }
    return (uint64_t)(int64_t)y;
}

static uint64_t roots(uint64_t n) {
    volatile double start = 12345.678;
    double x = start, sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        __asm__ volatile("sqrtsd %0, %0" : "+x"(x));
        sum += x;
        x = x * 3.5 + 1.25;
    }
    return (uint64_t)(int64_t)sum;
}

static uint64_t one(uint64_t x) { return x + 1; }
static uint64_t two(uint64_t x) { return x ^ 0x55; }
static uint64_t three(uint64_t x) { return x * 3; }
static uint64_t four(uint64_t x) { return x >> 1; }
static kernel volatile functions[4] = {one, two, three, four};
static uint64_t indirect(uint64_t n) {
    uint64_t x = 1;
    for (uint64_t i = 0; i < n; i++) x = functions[i & 3](x);
    return x;
}

// Only for a guest: a port and an address with no RAM behind it.
static uint64_t port(uint64_t n) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint8_t value;
        __asm__ volatile("inb $0x61, %0" : "=a"(value));
        sum += value;
    }
    return sum;
}

static uint64_t mmio(uint64_t n) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) sum += *(volatile uint32_t *)0x30000000;
    return sum;
}

static const kernel kernels[] = {integers, sieve, sha256, matmul, threaded,
                                 calls,    chase, x87,    roots,  indirect, port, mmio};

uint64_t run(uint64_t number, uint64_t n) { return kernels[number](n); }
