//! What does one instruction executed by the host cost, beside the instruction itself?

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use iced_x86::code_asm::{
    CodeAssembler, dword_ptr, mm0, mm1, rax, st0, st1, word_ptr, xmm1, xmm2, xmmword_ptr,
};
use iced_x86::{Decoder, DecoderOptions, IcedError, Instruction};
use x86_dbt::native::{FxState, NativeIo, NativeUnit};

type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;

const INSTRUCTIONS: [(&str, Build); 10] = [
    ("movdqa xmm, xmm", |a| a.movdqa(xmm1, xmm2)),
    ("movdqu xmm, m128", |a| a.movdqu(xmm1, xmmword_ptr(rax))),
    ("paddd xmm, xmm", |a| a.paddd(xmm1, xmm2)),
    ("addsd xmm, xmm", |a| a.addsd(xmm1, xmm2)),
    ("comisd xmm, xmm", |a| a.comisd(xmm1, xmm2)),
    ("pcmpestri xmm, xmm", |a| a.pcmpestri(xmm1, xmm2, 0)),
    ("fadd st0, st1", |a| a.fadd_2(st0, st1)),
    ("fld m32", |a| a.fld(dword_ptr(rax))),
    ("fldcw m16", |a| a.fldcw(word_ptr(rax))),
    ("pand mm, mm", |a| a.pand(mm0, mm1)),
];

fn execute(c: &mut Criterion) {
    let mut group = c.benchmark_group("x86-dbt-native/execute");
    for (name, build) in INSTRUCTIONS {
        let mut unit = NativeUnit::new().expect("the host gives executable memory");
        let op = unit
            .prepare(&assembled(build))
            .expect("a native instruction");
        let mut state = FxState::power_on();
        state.fninit();
        let mut io = NativeIo::new();
        io.memory[..2].copy_from_slice(&state.fcw().to_le_bytes());
        group.bench_function(name, |b| {
            b.iter(|| unit.execute(black_box(&op), &mut state, &mut io));
        });
    }
    group.finish();
}

fn prepare(c: &mut Criterion) {
    let mut group = c.benchmark_group("x86-dbt-native/prepare");
    let instruction = assembled(|a| a.addsd(xmm1, xmm2));
    let mut unit = NativeUnit::new().expect("the host gives executable memory");
    group.bench_function("known", |b| {
        b.iter(|| unit.prepare(black_box(&instruction)));
    });
    // A budget of one page, so that nothing stays known for long.
    let mut unit = NativeUnit::with_budget(1).expect("the host gives executable memory");
    let orders: Vec<_> = (0..=255).flat_map(shuffles).collect();
    let mut next = orders.iter().cycle();
    group.bench_function("new", |b| {
        b.iter(|| next.next().map(|order| unit.prepare(order)));
    });
    group.finish();
}

fn shuffles(order: i32) -> [Instruction; 3] {
    [
        assembled(|a| a.pshufd(xmm1, xmm2, order)),
        assembled(|a| a.pshuflw(xmm1, xmm2, order)),
        assembled(|a| a.pshufhw(xmm1, xmm2, order)),
    ]
}

fn assembled(build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Instruction {
    let mut a = CodeAssembler::new(64).expect("64 is a bitness");
    build(&mut a).expect("the operands fit");
    let bytes = a.assemble(0).expect("one instruction");
    Decoder::new(64, &bytes, DecoderOptions::NONE).decode()
}

criterion_group!(benches, execute, prepare);
criterion_main!(benches);
