use super::*;
use crate::layout;
use vm_memory::Bytes;

/// A bzImage of protocol 2.15 whose kernel is `kernel`: enough header for a loader, no code.
fn bzimage(kernel: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let paragraphs = u32::try_from(kernel.len().div_ceil(16)).unwrap();
    bytes[0x1f1] = 1;
    bytes[0x1f4..0x1f8].copy_from_slice(&paragraphs.to_le_bytes());
    bytes[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    bytes[0x211] = 1;
    bytes[0x236] = 1;
    bytes[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    bytes[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    bytes[0x260..0x264].copy_from_slice(&0x20_0000u32.to_le_bytes());
    bytes.extend(kernel);
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes
}

/// An ELF image with one segment of `code` at 2 MiB, entered there.
fn elf(code: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 120];
    let at_2_mib = 0x20_0000u64.to_le_bytes();
    let size = u64::try_from(code.len()).unwrap().to_le_bytes();
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16..20].copy_from_slice(&[2, 0, 62, 0]);
    bytes[24..32].copy_from_slice(&at_2_mib);
    bytes[32] = 64;
    bytes[54] = 56;
    bytes[56] = 1;
    bytes[64] = 1;
    bytes[72] = 120;
    bytes[88..96].copy_from_slice(&at_2_mib);
    bytes[96..104].copy_from_slice(&size);
    bytes[104..112].copy_from_slice(&size);
    bytes.extend(code);
    bytes
}

fn image(bytes: Vec<u8>) -> KernelImage {
    KernelImage {
        name: "image".into(),
        bytes,
    }
}

fn guest(kernel: &KernelImage) -> Guest<'_> {
    Guest {
        kernel,
        initrd: None,
        command_line: "",
        entry: ElfEntry::Auto,
        acpi: None,
    }
}

fn refusal(ram: u64, bytes: Vec<u8>) -> String {
    let ram = allocate_ram(ram).unwrap();
    load(&ram, &guest(&image(bytes))).unwrap_err().to_string()
}

#[test]
fn a_bzimage_is_loaded_at_its_preferred_address() {
    let ram = allocate_ram(64 << 20).unwrap();
    let kernel = image(bzimage(&[0x90; 100]));
    let command_line = "console=ttyS0";
    let start = load(
        &ram,
        &Guest {
            initrd: Some(b"disk"),
            command_line,
            ..guest(&kernel)
        },
    )
    .unwrap();
    assert_eq!((start.rip, start.rsi), (0x100_0200, layout::ZERO_PAGE));
    assert_eq!(
        ram.read_obj::<u32>(GuestAddress(0x100_0000)).unwrap(),
        0x9090_9090
    );
    let zero_page = |at: u64| {
        ram.read_obj::<u32>(GuestAddress(layout::ZERO_PAGE + at))
            .unwrap()
    };
    assert_eq!(zero_page(0x202), u32::from_le_bytes(*b"HdrS"));
    let mut disk = [0; 4];
    ram.read_slice(&mut disk, GuestAddress(zero_page(0x218).into()))
        .unwrap();
    assert_eq!((&disk, zero_page(0x21c)), (b"disk", 4));
    let mut line = [0; 14];
    ram.read_slice(&mut line, GuestAddress(zero_page(0x228).into()))
        .unwrap();
    assert_eq!(&line, b"console=ttyS0\0");
}

#[test]
fn the_boot_page_tables_map_4_gib_to_themselves() {
    let ram = allocate_ram(64 << 20).unwrap();
    let kernel = image(bzimage(&[]));
    let start = load(&ram, &guest(&kernel)).unwrap();
    for gva in [0u64, 0x7000, 0x100_0200, 0xfee0_0030] {
        let entry = |table: u64, shift: u32| {
            ram.read_obj::<u64>(GuestAddress((table & !0xfff) + (gva >> shift & 511) * 8))
                .unwrap()
        };
        let leaf = entry(entry(entry(start.cr3, 39), 30), 21);
        assert_eq!(leaf, gva & !0x1f_ffff | 0x83, "{gva:#x}");
    }
}

#[test]
fn an_elf_image_without_a_note_is_entered_as_linux() {
    let ram = allocate_ram(64 << 20).unwrap();
    let start = load(&ram, &guest(&image(elf(&[0xf4; 3])))).unwrap();
    assert_eq!(start.rip, 0x20_0000);
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0x20_0002)).unwrap(), 0xf4);
}

#[test]
fn pvh_start_information_names_command_line_module_and_map() {
    let ram = allocate_ram(64 << 20).unwrap();
    let kernel = image(elf(&[0xf4]));
    load(
        &ram,
        &Guest {
            initrd: Some(&[7; 5000]),
            ..guest(&kernel)
        },
    )
    .unwrap();
    let info = |at: u64| {
        ram.read_obj::<u64>(GuestAddress(layout::PVH_START_INFO + at))
            .unwrap()
    };
    assert_eq!(info(0) & 0xffff_ffff, 0x336e_c578);
    assert_eq!(info(24), layout::COMMAND_LINE);
    let module = GuestAddress(info(16));
    let paddr = ram.read_obj::<u64>(module).unwrap();
    assert_eq!(ram.read_obj::<u8>(GuestAddress(paddr)).unwrap(), 7);
    let map = info(40);
    assert_eq!(ram.read_obj::<u64>(GuestAddress(map)).unwrap(), 0);
    assert_eq!(
        ram.read_obj::<u64>(GuestAddress(map + 8)).unwrap(),
        layout::CONVENTIONAL_END
    );
}

#[test]
fn what_is_no_kernel_is_named_so() {
    let text = "image is neither a Linux bzImage nor a 64-bit x86 ELF kernel nor a Multiboot image";
    assert_eq!(refusal(64 << 20, vec![]), text);
    assert_eq!(refusal(64 << 20, vec![0xcc; 5000]), text);
    let mut elf_32 = elf(&[]);
    elf_32[4] = 1;
    assert_eq!(refusal(64 << 20, elf_32), text);
}

/// A Multiboot header with `flags` and `addresses`, and 32 bytes of code behind it.
fn multiboot(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let checksum = 0x1bad_b002_u32.wrapping_add(flags).wrapping_neg();
    let words = [0x1bad_b002, flags, checksum];
    let header = words.iter().chain(addresses).copied();
    let mut bytes: Vec<u8> = header.flat_map(u32::to_le_bytes).collect();
    bytes.extend([0xf4; 32]);
    bytes
}

#[test]
fn a_multiboot_image_goes_where_its_header_says() {
    let ram = allocate_ram(64 << 20).unwrap();
    // Header, load, end of data, end of bss, entry.
    let addresses = [0x10_0010, 0x10_0010, 0x10_0050, 0x10_0100, 0x10_0030];
    let kernel = image(multiboot(1 << 16, &addresses));
    let start = load(
        &ram,
        &Guest {
            initrd: Some(b"module"),
            command_line: "a b",
            ..guest(&kernel)
        },
    )
    .unwrap();
    let read = |at: u64| ram.read_obj::<u32>(GuestAddress(at)).unwrap();
    assert_eq!((start.rip, start.rax), (0x10_0030, 0x2bad_b002));
    assert_eq!(read(0x10_0010), 0x1bad_b002);
    assert_eq!(read(0x10_0030), 0xf4f4_f4f4);
    let information = layout::MULTIBOOT_INFO;
    assert_eq!(read(information), 0b10_0100_1101);
    assert_eq!(read(information + 8), 63 << 10, "KiB above 1 MiB");
    let mut text = [0; 10];
    ram.read_slice(&mut text, GuestAddress(read(information + 16).into()))
        .unwrap();
    assert_eq!(&text, b"image a b\0");
    let module = u64::from(read(u64::from(read(information + 24))));
    ram.read_slice(&mut text[..6], GuestAddress(module))
        .unwrap();
    assert_eq!(&text[..6], b"module");
}

#[test]
fn a_multiboot_image_that_lies_is_refused() {
    let past_its_end = [0x10_0000, 0x10_0000, 0x20_0000, 0, 0x10_0000];
    assert_eq!(
        refusal(64 << 20, multiboot(1 << 16, &past_its_end)),
        "image is truncated: 1048576 bytes are needed, 64 are there"
    );
    let header_before_the_load = [0x10_0000, 0x20_0000, 0, 0, 0];
    let text = refusal(64 << 20, multiboot(1 << 16, &header_before_the_load));
    assert!(text.contains("nor a Multiboot image"), "{text}");
    let beyond_ram = [0x800_0000, 0x800_0000, 0, 0, 0x800_0000];
    let text = refusal(64 << 20, multiboot(1 << 16, &beyond_ram));
    assert!(text.contains("too little"), "{text}");
    let neither_elf_nor_addressed = refusal(64 << 20, multiboot(0, &[]));
    assert!(neither_elf_nor_addressed.contains("nor a Multiboot"));
}

#[test]
fn a_truncated_image_says_how_much_is_missing() {
    let mut bytes = bzimage(&[0; 4096]);
    bytes.truncate(3000);
    assert_eq!(
        refusal(64 << 20, bytes),
        "image is truncated: 5120 bytes are needed, 3000 are there"
    );
    let mut bytes = elf(&[0; 100]);
    bytes.truncate(150);
    assert_eq!(
        refusal(64 << 20, bytes),
        "image is truncated: 220 bytes are needed, 150 are there"
    );
    let mut bytes = elf(&[]);
    bytes.truncate(100);
    assert!(refusal(64 << 20, bytes).contains("truncated"));
    let mut bytes = bzimage(&[]);
    bytes.truncate(0x210);
    assert!(refusal(64 << 20, bytes).contains("truncated"));
}

#[test]
fn every_cut_of_an_image_is_refused_or_loaded() {
    for whole in [bzimage(&[1; 64]), elf(&[1; 64])] {
        let ram = allocate_ram(32 << 20).unwrap();
        for length in 0..whole.len() {
            let _ = load(&ram, &guest(&image(whole[..length].to_vec())));
        }
    }
}

#[test]
fn too_little_memory_says_how_much_is_needed() {
    assert_eq!(
        refusal(1 << 20, bzimage(&[])),
        "1048576 bytes of memory are too little: kernel and RAM disk need 18878464"
    );
    assert!(refusal(1 << 20, elf(&[0; 10])).contains("too little"));
    let mut far = elf(&[0; 10]);
    far[88..96].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refusal(1 << 20, far).contains("too little"));
}

#[test]
fn command_lines_are_checked() {
    let ram = allocate_ram(64 << 20).unwrap();
    let kernel = image(bzimage(&[]));
    let refusal = |command_line: &str| {
        load(
            &ram,
            &Guest {
                command_line,
                ..guest(&kernel)
            },
        )
        .unwrap_err()
        .to_string()
    };
    assert_eq!(
        refusal(&"x".repeat(2048)),
        "the command line has 2048 bytes, the kernel takes 2047"
    );
    assert_eq!(
        refusal("a\0b"),
        "the command line has a control character at byte 1"
    );
    load(
        &ram,
        &Guest {
            command_line: &"x".repeat(2047),
            ..guest(&kernel)
        },
    )
    .unwrap();
}

#[test]
fn old_kernels_without_a_64_bit_entry_are_refused() {
    let mut bytes = bzimage(&[]);
    bytes[0x236] = 0;
    assert_eq!(refusal(64 << 20, bytes), "image has no 64-bit entry point");
}

#[test]
fn a_missing_file_is_named() {
    let error = KernelImage::read(Path::new("/no/such/kernel")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /no/such/kernel");
}
