//! What the host's processor has.

use iced_x86::CpuidFeature;

/// Whether the host executes instructions of `feature`, of the families that [`NativeUnit`](super::NativeUnit) runs.
/// A guest's CPUID must not offer more.
#[must_use]
pub fn host_supports(feature: CpuidFeature) -> bool {
    match feature {
        // Part of x86-64.
        CpuidFeature::FPU
        | CpuidFeature::FPU287
        | CpuidFeature::FPU387
        | CpuidFeature::CMOV
        | CpuidFeature::MMX
        | CpuidFeature::FXSR
        | CpuidFeature::SSE
        | CpuidFeature::SSE2 => true,
        CpuidFeature::SSE3 => is_x86_feature_detected!("sse3"),
        CpuidFeature::SSSE3 => is_x86_feature_detected!("ssse3"),
        CpuidFeature::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        CpuidFeature::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        CpuidFeature::AES => is_x86_feature_detected!("aes"),
        CpuidFeature::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        CpuidFeature::SHA => is_x86_feature_detected!("sha"),
        CpuidFeature::GFNI => is_x86_feature_detected!("gfni"),
        _ => false,
    }
}
