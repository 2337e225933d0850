#include <cstdio>
#include <cstdlib>

#include "fuzz.h"

namespace varve::fuzz {

const std::vector<Target>& targets() {
  static const std::vector<Target> kTargets{
      {"pack", fuzz_pack, pack_seeds},
      {"pack-repair", fuzz_pack_repair, pack_seeds},
      {"record", fuzz_record, record_seeds},
      {"node", fuzz_node, node_seeds},
      {"ref-text", fuzz_ref_text, ref_text_seeds},
      {"joined", fuzz_joined, joined_seeds},
      {"log-record", fuzz_log_record, log_record_seeds},
      {"checkpoint", fuzz_checkpoint, checkpoint_seeds},
      {"settings", fuzz_settings, settings_seeds},
      {"policies", fuzz_policies, policies_seeds},
      {"attributes", fuzz_attributes, attributes_seeds},
      {"journal", fuzz_journal, journal_seeds},
      {"journal-records", fuzz_journal_records, journal_records_seeds},
      {"volatile", fuzz_volatile, volatile_seeds},
      {"export-stream", fuzz_export_stream, export_stream_seeds},
      {"mount-options", fuzz_mount_options, mount_options_seeds},
      {"request", fuzz_request, request_seeds},
      {"names", fuzz_names, names_seeds},
  };
  return kTargets;
}

void require(bool held, const char* promise) {
  if (held) return;
  std::fprintf(stderr, "broken: %s\n", promise);
  std::abort();
}

}  // namespace varve::fuzz
