#include "varve/core/result.h"

#include <string>
#include <system_error>
#include <utility>

namespace varve {

tl::unexpected<Error> fail(int code, ErrorKind kind, std::string message) {
  return tl::unexpected<Error>(Error{code, kind, std::move(message)});
}

tl::unexpected<Error> fail_system(int code, std::string_view what) {
  // generic_category: strerror(3) itself may share its buffer between threads.
  return fail(code, ErrorKind::system, std::string(what) + ": " + std::generic_category().message(code));
}

tl::unexpected<Error> fail_damaged(std::string message) {
  return fail(EIO, ErrorKind::damaged, std::move(message));
}

tl::unexpected<Error> fail_refused(int code, std::string message) {
  return fail(code, ErrorKind::refused, std::move(message));
}

}  // namespace varve
