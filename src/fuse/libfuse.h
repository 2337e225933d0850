// The only way to libfuse's headers: they want to know which API is meant before anything else.
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>
