//! Sizes, member sets, SCL -> GCL -> VCL -> VDL.
