// A copy of a 16-bit tensor with its channels innermost. An asynchronous copy has four bytes or
// more, so tiles cannot be made of rows of 16-bit elements that windows shift by one: of channels
// that lie side by side they are copied 16 bytes at once.
//
// A block takes 64 channels of 64 pixels through shared memory: it reads along the pixels and
// writes along the channels. Rows there are an odd number of words apart, so both ways lie in
// different banks.
#pragma once

#include "places.cuh"

namespace fullconv::cuda {

constexpr int kSquare = 64, kSquareThreads = 256;
constexpr int kEight = 8;  // channels that a thread writes at once

struct ChannelsLastJob {
  View from, to;  // to.c is 1
  int64_t samples, channels, height, width;
  int64_t channel_tiles, pixel_tiles;
};

using Square = uint16_t[kSquare][kSquare + 2];  // by pixel and channel

__global__ void __launch_bounds__(kSquareThreads)
    make_channels_last(const __grid_constant__ ChannelsLastJob job) {
  Digits digits{static_cast<int>(blockIdx.x)};
  int64_t channel = int64_t{digits.next(job.channel_tiles)} * kSquare;
  int64_t pixel = int64_t{digits.next(job.pixel_tiles)} * kSquare, sample = digits.rest;
  int64_t channels = job.channels - channel, pixels = job.height * job.width - pixel;
  auto& square = gpu::dynamic_shared<Square>();

  constexpr int kReaders = kSquareThreads / kSquare;  // of a pixel
  int p = threadIdx.x % kSquare, c = threadIdx.x / kSquare;
  if (p < pixels) {
    int64_t y = (pixel + p) / job.width, x = (pixel + p) % job.width;
    const uint16_t* from = static_cast<const uint16_t*>(job.from.data) + sample * job.from.n +
                           channel * job.from.c + y * job.from.h + x * job.from.w;
#pragma unroll
    for (int i = 0; i < kSquare; i += kReaders)
      if (c + i < channels) square[p][c + i] = from[(c + i) * job.from.c];
  }
  __syncthreads();

  constexpr int kWriters = kSquare / kEight;  // of a pixel
  p = threadIdx.x / kWriters, c = threadIdx.x % kWriters * kEight;
  if (c >= channels) return;
  uint16_t* to = static_cast<uint16_t*>(job.to.data) + sample * job.to.n + channel + c;
#pragma unroll
  for (int i = p; i < kSquare; i += kSquareThreads / kWriters)
    if (i < pixels) {
      uint32_t words[4];
      memcpy(words, &square[i][c], sizeof words);
      gpu::store_words(to + (pixel + i) * job.to.w, words);
    }
}

}  // namespace fullconv::cuda
