// The options in the code, in --help and in the manual pages are the same, each way.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "mount_options.h"
#include "options.h"

namespace varve::cli {
namespace {

using Names = std::set<std::string>;

std::string read_page(const std::string& name) {
  std::ifstream file(std::string(VARVE_MANUAL) + "/" + name + ".scd");
  EXPECT_TRUE(file.good()) << name;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// The options that a text shows in bold at the beginning of a line: "*-s*, *--store* _STORE_".
Names bold_options(const std::string& line) {
  Names out;
  if (!line.starts_with("*-")) return out;
  static const std::regex bold(R"(\*(--?[A-Za-z][A-Za-z0-9-]*)\*)");
  for (std::sregex_iterator at(line.begin(), line.end(), bold), end; at != end; ++at) out.insert((*at)[1]);
  return out;
}

/// Options by command in varve(1): below "# OPTIONS" those of varve itself, below "## init" those of init.
std::map<std::string, Names> documented_options() {
  std::map<std::string, Names> out;
  std::istringstream page(read_page("varve.1"));
  std::string command = "none";
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with("# ")) command = line == "# OPTIONS" ? "" : "none";
    if (line.starts_with("## ")) command = line.substr(3);
    if (command != "none") out[command].merge(bold_options(line));
  }
  return out;
}

std::map<std::string, Names> coded_options() {
  std::map<std::string, Names> out;
  for (const auto& option : all_options()) {
    for (const auto& name : option.names) {
      // Every command has it; the page says so once.
      if (!option.command.empty() && (name == "-h" || name == "--help")) continue;
      out[option.command].insert(name);
    }
  }
  return out;
}

TEST(Manual, HasExactlyTheOptionsOfTheCode) {
  EXPECT_EQ(documented_options(), coded_options());
}

TEST(Manual, HelpShowsEveryOptionOfTheCodeAndNoOther) {
  static const std::regex word(R"((^|[\s,])(--?[A-Za-z][A-Za-z0-9-]*))");
  for (const auto& [command, names] : coded_options()) {
    Names shown;
    std::istringstream help(help_text(command));
    for (std::string line; std::getline(help, line);) {
      if (!line.starts_with("  -")) continue;
      // The names stand before the description, which is two spaces away at least.
      const auto column = line.substr(0, line.find("  ", 2));
      for (std::sregex_iterator at(column.begin(), column.end(), word), end; at != end; ++at) shown.insert((*at)[2]);
    }
    shown.erase("-h");
    shown.erase("--help");
    Names expected = names;
    expected.erase("-h");
    expected.erase("--help");
    EXPECT_EQ(shown, expected) << "varve " << command << " --help";
  }
}

TEST(Manual, SynopsisNamesEveryCommand) {
  const auto page = read_page("varve.1");
  for (const auto& [command, names] : coded_options()) {
    if (command.empty()) continue;
    EXPECT_NE(page.find("*varve " + command + "*"), std::string::npos) << command;
  }
}

/// Between two headings of a page.
std::string section(const std::string& page, const std::string& heading) {
  const auto begin = page.find("\n# " + heading + "\n");
  EXPECT_NE(begin, std::string::npos) << heading;
  const auto end = page.find("\n# ", begin + 1);
  return page.substr(begin, end - begin);
}

TEST(Manual, MountPageHasExactlyTheMountOptionsOfTheCode) {
  const auto options = section(read_page("mount.varve.8"), "OPTIONS");
  const auto ignored_at = options.find("that mean nothing here are accepted:");
  const auto helper_at = options.find("What *mount*(8) passes");
  ASSERT_NE(ignored_at, std::string::npos);
  ASSERT_NE(helper_at, std::string::npos);

  Names documented;
  static const std::regex bold(R"(\*([a-z_\\]+)\*)");
  std::istringstream lines(options.substr(0, ignored_at));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("*")) continue;
    for (std::sregex_iterator at(line.begin(), line.end(), bold), end; at != end; ++at) documented.insert((*at)[1]);
  }
  Names coded;
  for (const auto& option : mount_option_table()) coded.emplace(option.name);
  EXPECT_EQ(documented, coded);

  Names documented_ignored;
  auto ignored = options.substr(ignored_at, options.find("and every option", ignored_at) - ignored_at);
  std::erase(ignored, '\\');
  for (std::sregex_iterator at(ignored.begin(), ignored.end(), bold), end; at != end; ++at) {
    documented_ignored.insert((*at)[1]);
  }
  const auto& names = ignored_mount_options();
  EXPECT_EQ(documented_ignored, Names(names.begin(), names.end()));
}

TEST(Manual, MountHelpShowsEveryMountOption) {
  const auto help = help_text("mount");
  for (const auto& option : mount_option_table()) EXPECT_NE(help.find(option.name), std::string::npos) << option.name;
}

}  // namespace
}  // namespace varve::cli
