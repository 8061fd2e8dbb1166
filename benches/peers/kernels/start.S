// The image's head: a Multiboot header for QEMU, the parameters, and the ways in.
        .section .head, "awx"
        .set FLAGS, 0x10003
        .globl image
image:
        .long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
        .long image, image, image_end, image_end, start32
        .balign 64
kernel_number:  .quad 0         // at 64
iterations:     .quad 0         // at 72
result:         .quad 0         // at 80
native:         .quad run       // at 88
entry64:        .quad start64   // at 96
tables:         .quad pml4      // at 104

        .code32
start32:
        mov     $stack_top, %esp
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     %cr4, %eax
        or      $0x620, %eax            // PAE, OSFXSR, OSXMMEXCPT
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx
        rdmsr
        or      $0x100, %eax            // LME
        wrmsr
        mov     %cr0, %eax
        and     $~4, %eax               // EM
        or      $0x80000002, %eax       // PG, MP
        mov     %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $8, $start64

        .code64
start64:
        mov     $stack_top, %rsp
        fninit
        mov     kernel_number, %rdi
        mov     iterations, %rsi
        call    run
        mov     %rax, result
        mov     $0xf4, %dx
        xor     %eax, %eax
        out     %al, %dx                // QEMU's isa-debug-exit
        hlt

        .balign 8
gdt:    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   23
        .long   gdt

        .section .data
        .balign 4096
pml4:   .quad pdpt + 7
        .fill   511, 8, 0
pdpt:   .quad pd + 7
        .fill   511, 8, 0
pd:     .set    page, 0
        .rept   512
        .quad   page + 0x87
        .set    page, page + 0x200000
        .endr
        .globl  pml4

        .section .bss
        .balign 16
        .skip   65536
stack_top:
