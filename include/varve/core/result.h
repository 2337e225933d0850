// Errors are values: an errno for programs, a kind for decisions, a sentence for the person who must act.
#pragma once

#include <cerrno>
#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace varve {

/// What sort of trouble it is; the errno says how it is reported, the kind says what may be done about it.
enum class ErrorKind {
  system,   ///< the operating system refused; `code` is its errno
  damaged,  ///< stored bytes fail their check (always EIO)
  refused,  ///< the caller asked for something not allowed; nothing was changed
  absent,   ///< the named thing does not exist (ENOENT, ENODATA)
  latched,  ///< an earlier failed sync left this object in doubt; it refuses until reopened (always EIO)
};

struct Error {
  int code = EIO;  ///< positive errno, what a system call would report
  ErrorKind kind = ErrorKind::system;
  std::string message;  ///< names the thing and, where there is one, the remedy; no trailing newline

  /// The same error with "context: " put before the message.
  [[nodiscard]] Error in(std::string_view context) const {
    return Error{code, kind, std::string(context) + ": " + message};
  }
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

[[nodiscard]] tl::unexpected<Error> fail(int code, ErrorKind kind, std::string message);
/// "what: strerror(code)", kind system.
[[nodiscard]] tl::unexpected<Error> fail_system(int code, std::string_view what);
/// EIO, kind damaged.
[[nodiscard]] tl::unexpected<Error> fail_damaged(std::string message);
/// Kind refused.
[[nodiscard]] tl::unexpected<Error> fail_refused(int code, std::string message);

}  // namespace varve

#define VARVE_CONCAT_INNER(a, b) a##b
#define VARVE_CONCAT(a, b) VARVE_CONCAT_INNER(a, b)

/// `VARVE_TRY(expression)`: evaluates a Result; returns its error from the enclosing function.
#define VARVE_TRY(expression)                                                     \
  do {                                                                            \
    if (auto varve_try_result = (expression); !varve_try_result)                  \
      return tl::unexpected<::varve::Error>(std::move(varve_try_result).error()); \
  } while (false)

/// `VARVE_TRY_ASSIGN(auto x, expression)`: the same, and binds the value.
#define VARVE_TRY_ASSIGN(declaration, expression) \
  VARVE_TRY_ASSIGN_INNER(VARVE_CONCAT(varve_try_, __LINE__), declaration, expression)
#define VARVE_TRY_ASSIGN_INNER(temporary, declaration, expression)          \
  auto temporary = (expression);                                            \
  if (!temporary) return tl::unexpected<::varve::Error>(std::move(temporary).error()); \
  declaration = std::move(*temporary)
