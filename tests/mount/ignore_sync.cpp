// A disk that lies: preloaded into varve in the guest of power_cuts.py, it makes every sync return at once. The test
// must notice.
extern "C" {
int fsync(int fd) { return fd < 0 ? -1 : 0; }
int fdatasync(int fd) { return fd < 0 ? -1 : 0; }
int syncfs(int fd) { return fd < 0 ? -1 : 0; }
int sync_file_range(int fd, long, long, unsigned) { return fd < 0 ? -1 : 0; }
}
