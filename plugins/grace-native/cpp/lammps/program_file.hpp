// NAME.gracelmp: a model lowered for given elements, read without Python (written by grace_native/lammps/program_file.py).
//
//   8 bytes "GRACELMP"; int64: format, bytes of the header, size of code, size of data; header: lines "key value";
//   code int64[]; data double[]; pair cutoffs double[elements][elements]; CRC-32 of all before (int64). Little endian.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace grace {

constexpr int64_t kFileFormat = 1;

struct ProgramFile {
  std::map<std::string, std::string> header;
  std::vector<std::string> elements;
  std::vector<int64_t> code;
  std::vector<double> data, cutoffs;

  explicit ProgramFile(const std::string &bytes) {
    constexpr size_t head = 8 + 4 * 8;
    if (!is_one(bytes)) throw std::runtime_error("it is not a .gracelmp file");
    int64_t sizes[4], sum;
    if (bytes.size() < head + 8) throw std::runtime_error("it is cut off");
    std::memcpy(sizes, bytes.data() + 8, sizeof(sizes));
    if (sizes[0] != kFileFormat)
      throw std::runtime_error("it is of format " + std::to_string(sizes[0]) + ", this pair style reads " + std::to_string(kFileFormat) +
                               "; write it again with this grace-native");
    std::memcpy(&sum, bytes.data() + bytes.size() - 8, 8);
    if (sum != int64_t(crc32(bytes.data(), bytes.size() - 8))) throw std::runtime_error("it is damaged (its checksum is wrong)");
    size_t at = head;
    std::istringstream lines(take(bytes, at, size_t(sizes[1])));
    for (std::string line; std::getline(lines, line);) {
      const size_t space = line.find(' ');
      if (space != std::string::npos) header[line.substr(0, space)] = line.substr(space + 1);
    }
    std::istringstream names(header["elements"]);
    for (std::string name; names >> name;) elements.push_back(name);
    numbers(bytes, at, code, size_t(sizes[2])), numbers(bytes, at, data, size_t(sizes[3]));
    numbers(bytes, at, cutoffs, elements.size() * elements.size());
    if (elements.empty() || at + 8 != bytes.size()) throw std::runtime_error("its parts do not add up");
  }
  static bool is_one(const std::string &bytes) { return bytes.compare(0, 8, "GRACELMP") == 0; }

 private:
  static std::string take(const std::string &bytes, size_t &at, size_t size) {
    if (size > bytes.size() - at) throw std::runtime_error("it is cut off");
    at += size;
    return bytes.substr(at - size, size);
  }
  template <class T> static void numbers(const std::string &bytes, size_t &at, std::vector<T> &to, size_t count) {
    if (count > (bytes.size() - at) / sizeof(T)) throw std::runtime_error("it is cut off");
    to.resize(count);
    std::memcpy(to.data(), bytes.data() + at, count * sizeof(T));
    at += count * sizeof(T);
  }
  static uint32_t crc32(const char *bytes, size_t size) {  // of zlib
    uint32_t table[256];
    for (uint32_t i = 0; i < 256; ++i) {
      table[i] = i;
      for (int k = 0; k < 8; ++k) table[i] = (table[i] >> 1) ^ (table[i] & 1 ? 0xEDB88320u : 0u);
    }
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; ++i) crc = table[(crc ^ uint8_t(bytes[i])) & 0xFFu] ^ (crc >> 8);
    return ~crc;
  }
};

}  // namespace grace
