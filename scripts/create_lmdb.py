"""Make an LMDB from a folder of images or another LMDB, check one, or write one's images to a folder.

    python scripts/create_lmdb.py photos/ datasets/photos.lmdb --crop 512 --step 448
    python scripts/create_lmdb.py datasets/photos.lmdb datasets/photos_raw.lmdb --raw
    python scripts/create_lmdb.py datasets/photos_raw.lmdb photos/ --extract
    python scripts/create_lmdb.py --check datasets/photos.lmdb
"""
import argparse

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_data.lmdb_writer import check_lmdb, create_lmdb, extract_images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', nargs='?', help='folder of images, or an LMDB')
    parser.add_argument('target', nargs='?', help='LMDB to write, NAME.lmdb (with --extract: folder)')
    parser.add_argument('--raw', action='store_true', help='store raw pixels, not PNGs: larger, read without decoding')
    parser.add_argument('--extract', action='store_true', help='write the images of an LMDB to a folder of PNGs')
    parser.add_argument('--crop', type=int, help='cut sub-images of this side')
    parser.add_argument('--step', type=int, help='distance of neighbouring sub-images (default: the crop)')
    parser.add_argument('--only', help='text file of the images to take: paths below the folder, no extension')
    parser.add_argument('--workers', type=int, help='threads (default: one a core)')
    parser.add_argument('--compress-level', type=int, choices=range(10), default=1, metavar='0-9',
                        help='PNG compression (default: 1)')
    parser.add_argument('--check', metavar='LMDB', help='read every entry of an LMDB and stop')
    args = parser.parse_args()
    if not args.check and not (args.source and args.target):
        parser.error('give a folder and an LMDB to write, or --check LMDB')
    if args.extract and (args.crop or args.step or args.only or args.raw):
        parser.error('--extract writes every image as it is: without --crop, --step, --only and --raw')
    with errors_in_one_line():
        if args.check:
            print(f'{args.check}: {check_lmdb(args.check)} images, all readable.')
            return
        if args.extract:
            print(f'{args.target}: {extract_images(args.source, args.target, args.workers)} images from {args.source}.')
            return
        keys = None
        if args.only:
            keys = read_names(args.only)
        count = create_lmdb(args.source, args.target, args.crop, args.step, keys, args.workers, args.compress_level,
                            args.raw)
        print(f'{args.target}: {count} images from {args.source}.')


def read_names(path):
    """The lines of a text file, as a set."""
    try:
        with open(path, encoding='utf-8-sig') as file:
            return {line.strip() for line in file if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'--only {path}: cannot be read ({error}).') from error


if __name__ == '__main__':
    main()
