//! Load generator, WAN emulator and scenarios: how the mesh is put under stress and measured
