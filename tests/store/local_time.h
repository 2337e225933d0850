// A time zone with summer time, for the tests of what goes by the local calendar.
#pragma once

#include <cstdlib>
#include <ctime>
#include <string>

#include "varve/core/time.h"

namespace varve::test {

/// The process's zone for as long as it lives.
class CentralEuropeanTime {
 public:
  CentralEuropeanTime() {
    ::setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    ::tzset();
  }
  ~CentralEuropeanTime() {
    ::unsetenv("TZ");
    ::tzset();
  }
  CentralEuropeanTime(const CentralEuropeanTime&) = delete;
  CentralEuropeanTime& operator=(const CentralEuropeanTime&) = delete;
};

/// An instant in UTC, of a text that is one.
inline Time at(const std::string& text) { return parse_iso8601(text).value(); }

}  // namespace varve::test
